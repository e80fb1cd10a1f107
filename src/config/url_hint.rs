//! What to write instead of an invalid address of a server.

use url::Url;

use super::{SERVER, ServerUrl};

/// A correction of an invalid address in a key of `table`, as a phrase that follows "write"; `None`
/// if the intended address is not clear. Never contains a user name, a password or a query.
pub(super) fn correction(text: &str, table: &str) -> Option<String> {
    let text = text.trim();
    let mut url = Url::parse(&with_scheme(text)?).ok()?;
    let has_credentials = !url.username().is_empty() || url.password().is_some();
    // Without this check, the text after the "@" could be a part of a password, which `Url` takes
    // for a path.
    if text.matches('@').count() != usize::from(has_credentials) {
        let separate = separate_credentials(&url, table)?;
        return has_credentials.then(|| format!("the address without them, and {separate}"));
    }
    let separate = has_credentials.then(|| separate_credentials(&url, table));
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/socket.io").unwrap_or(path).to_owned();
    url.set_path(&path);
    let url: ServerUrl = url.as_str().parse().ok()?;
    match separate {
        None => Some(format!(r#""{url}""#)),
        Some(separate) => Some(format!(r#""{url}", and {}"#, separate?)),
    }
}

/// Where to write credentials instead of into the address; `None` if no key takes them.
fn separate_credentials(url: &Url, table: &str) -> Option<String> {
    match (url.scheme(), table) {
        ("nats" | "tls", _) => Some(format!(
            "a token in {table}.token, or the path of a .creds file in {table}.credentials_file"
        )),
        (_, SERVER) => Some(format!(
            r#"{table}.headers = "Authorization: Basic …", where … is user:password in base64"#
        )),
        _ => None,
    }
}

/// Adds a missing scheme, if the text without it looks like an address.
fn with_scheme(text: &str) -> Option<String> {
    if text.contains("://") {
        return Some(text.to_owned());
    }
    let authority = text.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let looks_like_a_host = host.contains(['.', ':']) || host == "localhost";
    let scheme = match host.rsplit_once(':') {
        Some((_, "443")) => "https",
        Some((_, "4222")) => "nats",
        _ => "http",
    };
    looks_like_a_host.then(|| format!("{scheme}://{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_address_is_corrected() {
        for (text, expected) in [
            ("localhost:5000", "\"http://localhost:5000\""),
            ("192.168.1.7:5000/team/", "\"http://192.168.1.7:5000/team\""),
            ("pit.example.org", "\"http://pit.example.org\""),
            ("pit.example.org:443", "\"https://pit.example.org\""),
            ("localhost:4222", "\"nats://localhost:4222\""),
            ("http://pit:5000/socket.io/", "\"http://pit:5000\""),
            ("pit:5000/a/socket.io/?EIO=4&token=x", "\"http://pit:5000/a\""),
            ("wss://pit/socket.io", "\"https://pit\""),
        ] {
            assert_eq!(correction(text, SERVER).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "b", "/", "http://", "ftp://pit", "localhost:port", "a b:1"] {
            assert_eq!(correction(text, SERVER), None, "{text}");
        }
    }

    #[test]
    fn a_correction_has_no_part_of_a_password() {
        let headers =
            "server.headers = \"Authorization: Basic …\", where … is user:password in base64";
        let creds = |table: &str| {
            format!(
                "a token in {table}.token, or the path of a .creds file in {table}.credentials_file"
            )
        };
        for (text, table, expected) in [
            ("https://team:secret@pit", SERVER, Some(format!("\"https://pit\", and {headers}"))),
            (
                "https://:secret@pit/socket.io?token=secret",
                SERVER,
                Some(format!("\"https://pit\", and {headers}")),
            ),
            (
                "https://team:p@secret@pit",
                SERVER,
                Some(format!("the address without them, and {headers}")),
            ),
            (
                "nats://team:secret@pit",
                SERVER,
                Some(format!("\"nats://pit\", and {}", creds(SERVER))),
            ),
            (
                "tls://secret@pit",
                "source.nats",
                Some(format!("\"tls://pit\", and {}", creds("source.nats"))),
            ),
            ("https://team:secret@pit", "source.nats", None),
            ("https://team:12#secret@pit", SERVER, None),
            ("https://team:12/secret@pit", SERVER, None),
            ("https://team:12?secret@pit", SERVER, None),
            ("https://team:secret#/1@pit", SERVER, None),
        ] {
            let found = correction(text, table);
            assert_eq!(found, expected, "{text}");
            assert!(!found.unwrap_or_default().contains("secret"), "{text}");
        }
    }
}
