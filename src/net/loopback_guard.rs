//! Decides who may use a listener, for each request, from its peer address, its Host and Origin
//! headers, and its token.
//!
//! A browser on this PC reaches loopback listeners too, from any page that it shows. A foreign page
//! is recognized by its Origin, or by `Sec-Fetch-Site` where a request has no Origin; a page whose
//! own name was pointed at this PC (DNS rebinding) by its Host.
//!
//! `deploy/docs/access.md` shows the result for each listener; `tests/it/abuse/access.rs` holds
//! every cell of it against the program.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, COOKIE, FORWARDED, HOST, LOCATION, ORIGIN, SET_COOKIE,
    WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use subtle::ConstantTimeEq;
use url::form_urlencoded;

use crate::config::{CredentialFile, Secret, is_loopback, listener_token};
use crate::net::cross_origin::is_preflight;
use crate::net::host_kind::HostKind;
use crate::net::page::{FormPolicy, document, is_shown, message};

/// The cookie that stores the token of a link in the browser.
const TOKEN_COOKIE: &str = "pitwire_token";
/// How long a browser keeps the cookie: a race weekend and its preparation.
const COOKIE_LIFETIME: Duration = Duration::from_hours(30 * 24);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Who may use a listener, or some of its paths. Pages of other origins are never admitted.
#[derive(Clone, Debug)]
pub enum Access {
    /// Programs and pages on this PC.
    ThisPc,
    /// Programs and pages on this PC; from elsewhere, clients that send the token.
    ThisPcOrToken(Secret),
    /// Only clients that send the token, even on this PC. An empty token admits no client.
    Token(Secret),
    /// All clients that use an address, or a name that a foreign page cannot have.
    Anyone,
}

impl Access {
    /// The access to the listener of a table of the configuration: with a token, [`Access::Token`];
    /// without one, [`Access::ThisPc`].
    ///
    /// # Errors
    /// If the token file cannot be read or has no usable token.
    pub(crate) fn to_listener(
        table: &str,
        token: &Secret,
        token_file: Option<&CredentialFile>,
    ) -> io::Result<Self> {
        let token = read_token(table, token, token_file)?;
        Ok(if token.reveal().is_some() { Self::Token(token) } else { Self::ThisPc })
    }

    /// The access to the paths of the admin address that other machines may use.
    ///
    /// # Errors
    /// If the token file cannot be read or has no usable token.
    pub(crate) fn to_metrics(
        token: &Secret,
        token_file: Option<&CredentialFile>,
    ) -> io::Result<Self> {
        read_token("metrics", token, token_file).map(Self::ThisPcOrToken)
    }
}

fn read_token(table: &str, token: &Secret, file: Option<&CredentialFile>) -> io::Result<Secret> {
    listener_token(token, file)
        .map_err(|fault| io::Error::other(format!("{table}.token_file: {fault}")))
}

/// Middleware that forwards admitted requests and answers the others with the reason.
pub(crate) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let claims = Claims {
        peer,
        method: request.method(),
        headers: request.headers(),
        query_token: query_token(request.uri()),
    };
    let is_page = is_page(&claims, request.uri());
    match claims.admitted_to(&access) {
        Ok(()) => match (&access, &claims.query_token) {
            (Access::Token(expected), Some(token)) if is_page && is_same(token, expected) => {
                keep_token(token, request.uri())
            }
            _ => next.run(request).await,
        },
        Err(denied) if is_page => denied.page(),
        Err(denied) => denied.json(),
    }
}

/// The parts of a request that determine its origin and credentials.
struct Claims<'a> {
    /// `None` if the server does not provide it; the request is then not from this PC.
    peer: Option<IpAddr>,
    method: &'a Method,
    headers: &'a HeaderMap,
    query_token: Option<String>,
}

/// Why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Denied {
    #[error("only programs and pages on this PC may use this; connect to 127.0.0.1")]
    NotThisPc,
    #[error("pages of other origins may not use this")]
    ForeignPage,
    #[error(
        "this host name could belong to a foreign page; use the server's IP address, or start it \
         with a token"
    )]
    ForeignName,
    #[error(
        "pitwire needs a token here; send it as \"Authorization: Bearer TOKEN\" or as ?token=TOKEN"
    )]
    NoToken,
    #[error("the token is not the one that pitwire was started with; correct it")]
    WrongToken,
    #[error("clients of a server without a token cannot delete sessions; start it with a token")]
    NeverWithoutToken,
}

impl Claims<'_> {
    fn admitted_to(&self, access: &Access) -> Result<(), Denied> {
        if self.is_foreign_page() {
            return Err(Denied::ForeignPage);
        }
        let may_be_foreign = self.host().map_or(HostKind::Public, HostKind::of) == HostKind::Public;
        match access {
            Access::ThisPc if self.is_this_pc() => Ok(()),
            Access::ThisPc => Err(Denied::NotThisPc),
            Access::ThisPcOrToken(_) if self.is_this_pc() => Ok(()),
            // A browser sends no token along with a preflight, which reveals nothing.
            Access::Token(_) if self.is_preflight_of_this_pc() => Ok(()),
            // No token is configured, so asking for one would not help.
            Access::ThisPcOrToken(token) if token.reveal().is_none() => Err(Denied::NotThisPc),
            Access::ThisPcOrToken(token) | Access::Token(token) => self.presents(token),
            Access::Anyone if may_be_foreign => Err(Denied::ForeignName),
            Access::Anyone if *self.method == Method::DELETE => Err(Denied::NeverWithoutToken),
            Access::Anyone => Ok(()),
        }
    }

    fn is_preflight_of_this_pc(&self) -> bool {
        is_preflight(self.method, self.headers) && self.is_this_pc()
    }

    fn host(&self) -> Option<&str> {
        self.headers.get(HOST)?.to_str().ok()
    }

    /// Whether the request comes from a program or a page on this PC, and not through a proxy.
    fn is_this_pc(&self) -> bool {
        let is_forwarded =
            self.headers.contains_key(FORWARDED) || self.headers.contains_key(X_FORWARDED_FOR);
        self.peer.is_some_and(is_loopback)
            && self.host().is_some_and(|host| HostKind::of(host) == HostKind::ThisPc)
            && !is_forwarded
    }

    /// Whether the request comes from a page that is neither of this PC nor of this server.
    fn is_foreign_page(&self) -> bool {
        let Some(origin) = self.headers.get(ORIGIN) else {
            // Requests for images, scripts and frames have no Origin. A link that a user follows
            // may be on any page.
            return self.has(SEC_FETCH_SITE, "cross-site") && !self.has(SEC_FETCH_DEST, "document");
        };
        let origin = origin.to_str().unwrap_or_default();
        let origin = origin.split_once("://").map_or(origin, |(_, authority)| authority);
        let Some(host) = self.host() else { return true };
        let is_of_this_pc =
            [origin, host].iter().all(|name| HostKind::of(name) == HostKind::ThisPc);
        !is_of_this_pc && !origin.eq_ignore_ascii_case(host)
    }

    fn has(&self, header: HeaderName, value: &str) -> bool {
        self.headers.get(header).is_some_and(|found| found == value)
    }

    /// Checks that one of the tokens in the request is the expected one.
    fn presents(&self, expected: &Secret) -> Result<(), Denied> {
        let bearer = self.headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
        let presented = [bearer, self.query_token.clone(), self.cookie_token()];
        let mut presented = presented.into_iter().flatten().peekable();
        if presented.peek().is_none() {
            return Err(Denied::NoToken);
        }
        if presented.any(|token| is_same(&token, expected)) {
            Ok(())
        } else {
            Err(Denied::WrongToken)
        }
    }

    fn cookie_token(&self) -> Option<String> {
        let cookies =
            self.headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
        let mut cookies = cookies.flat_map(|line| line.split(';'));
        let encoded = cookies.find_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == TOKEN_COOKIE).then_some(value)
        })?;
        Some(form_urlencoded::parse(encoded.as_bytes()).next()?.0.into_owned())
    }
}

/// Compares in constant time; nothing equals an empty expected token.
fn is_same(token: &str, expected: &Secret) -> bool {
    let expected = expected.reveal();
    expected.is_some_and(|expected| token.as_bytes().ct_eq(expected.as_bytes()).into())
}

fn query_token(uri: &Uri) -> Option<String> {
    let pairs = form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.into_iter().find(|(name, _)| name == "token").map(|(_, token)| token.into_owned())
}

/// Whether the response is shown in a browser.
fn is_page(claims: &Claims<'_>, uri: &Uri) -> bool {
    let is_page = uri.path() == "/" || uri.path().starts_with("/dashboard/");
    *claims.method == Method::GET && is_shown(claims.headers) && is_page
}

/// Moves the token of a link into a cookie, so that it does not stay in the address bar.
fn keep_token(token: &str, uri: &Uri) -> Response {
    let query = uri.query().unwrap_or_default();
    let mut rest = form_urlencoded::Serializer::new(String::new());
    rest.extend_pairs(form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "token"));
    let rest = rest.finish();
    let separator = if rest.is_empty() { "" } else { "?" };
    // Relative, so that it stays below the path of a proxy in front of this server.
    let page = uri.path().rsplit('/').next().unwrap_or_default();
    let location = format!("./{page}{separator}{rest}");
    let value: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
    let seconds = COOKIE_LIFETIME.as_secs();
    let cookie =
        format!("{TOKEN_COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax");
    let (Ok(location), Ok(mut cookie)) =
        (HeaderValue::try_from(location), HeaderValue::try_from(cookie))
    else {
        return Denied::WrongToken.json();
    };
    cookie.set_sensitive(true);
    let headers = [
        (LOCATION, location),
        (SET_COOKIE, cookie),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

impl Denied {
    fn status(self) -> StatusCode {
        match self {
            Self::NoToken | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::NotThisPc | Self::ForeignPage | Self::ForeignName | Self::NeverWithoutToken => {
                StatusCode::FORBIDDEN
            }
        }
    }

    fn json(self) -> Response {
        let body = Json(json!({"error": self.to_string()}));
        let mut response = (self.status(), body).into_response();
        if self.status() == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"pitwire\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// A page for a browser: asks for the token if one would help.
    fn page(self) -> Response {
        if self.status() != StatusCode::UNAUTHORIZED {
            return (self.status(), message("No access", &format!("{self}."))).into_response();
        }
        let wrong =
            if self == Self::WrongToken { "<p role=\"alert\">This token is wrong." } else { "" };
        let page = document(
            FormPolicy::ThisServer,
            &[
                "<title>pitwire: token</title><main><h1>This page needs a token</h1>",
                wrong,
                "<p>Open the link that <code>pitwire serve</code> printed, or enter its token.\
             <form><label>Token <input type=\"password\" name=\"token\" id=\"token\" required></label> \
             <button>Open</button></form></main>",
            ],
        );
        (self.status(), page).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "correct-horse-battery";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn admitted(access: &Access, peer: &str, pairs: &[(HeaderName, &str)]) -> Result<(), Denied> {
        let headers = headers(pairs);
        let peer = Some(peer.parse().unwrap());
        let claims = Claims { peer, method: &Method::GET, headers: &headers, query_token: None };
        claims.admitted_to(access)
    }

    #[test]
    fn origins_other_than_this_pc_or_this_server_are_foreign() {
        for (host, origin, is_foreign) in [
            ("127.0.0.1:9184", "http://localhost:3000", false),
            ("localhost:9184", "https://127.0.0.1", false),
            ("127.0.0.1:9184", "http://[::1]:80", false),
            ("192.168.1.7:5000", "http://192.168.1.7:5000", false),
            ("pit.example.org", "https://Pit.Example.org", false),
            ("192.168.1.7:5000", "http://localhost:3000", true),
            ("192.168.1.7:5000", "http://192.168.1.7:6000", true),
            ("127.0.0.1:9184", "null", true),
            ("127.0.0.1:9184", "https://localhost.evil.example", true),
            ("127.0.0.1:9184", "http://10.0.0.1", true),
        ] {
            let denied = admitted(&Access::Anyone, "10.0.0.1", &[(HOST, host), (ORIGIN, origin)]);
            assert_eq!(denied == Err(Denied::ForeignPage), is_foreign, "{host} {origin}");
        }
    }

    #[test]
    fn cross_site_requests_are_foreign_except_link_navigation() {
        for (site, destination, is_foreign) in [
            ("cross-site", "image", true),
            ("cross-site", "iframe", true),
            ("cross-site", "empty", true),
            ("cross-site", "document", false),
            ("same-site", "image", false),
            ("none", "document", false),
        ] {
            let denied = admitted(
                &Access::ThisPc,
                "127.0.0.1",
                &[(HOST, "127.0.0.1:9184"), (SEC_FETCH_SITE, site), (SEC_FETCH_DEST, destination)],
            );
            assert_eq!(denied == Err(Denied::ForeignPage), is_foreign, "{site} {destination}");
        }
    }

    #[test]
    fn local_access_requires_loopback_peer_local_host_and_no_proxy() {
        for (peer, pairs, may) in [
            ("127.0.0.1", vec![(HOST, "127.0.0.1:9184")], true),
            ("::ffff:127.0.0.1", vec![(HOST, "localhost:9184")], true),
            ("::1", vec![(HOST, "[::1]:9184")], true),
            // Another machine can send any Host.
            ("192.168.1.7", vec![(HOST, "127.0.0.1:9184")], false),
            ("::ffff:192.168.1.7", vec![(HOST, "127.0.0.1:9184")], false),
            ("127.0.0.1", vec![(HOST, "evil.example:9184")], false),
            ("127.0.0.1", vec![], false),
            ("127.0.0.1", vec![(HOST, "localhost"), (X_FORWARDED_FOR, "10.0.0.1")], false),
            ("127.0.0.1", vec![(HOST, "localhost"), (FORWARDED, "for=10.0.0.1")], false),
        ] {
            assert_eq!(admitted(&Access::ThisPc, peer, &pairs).is_ok(), may, "{peer} {pairs:?}");
        }
    }

    #[test]
    fn a_token_is_accepted_as_bearer_cookie_or_query_parameter() {
        let access = Access::Token(TOKEN.into());
        let basic = format!("Basic {TOKEN}");
        for (name, value, expected) in [
            (AUTHORIZATION, format!("Bearer {TOKEN}"), Ok(())),
            (AUTHORIZATION, format!("bearer  {TOKEN} "), Ok(())),
            (COOKIE, format!("a=b; {TOKEN_COOKIE}={TOKEN}"), Ok(())),
            (AUTHORIZATION, basic, Err(Denied::NoToken)),
            (AUTHORIZATION, format!("Bearer {TOKEN}x"), Err(Denied::WrongToken)),
            (AUTHORIZATION, "Bearer ".into(), Err(Denied::NoToken)),
            (COOKIE, format!("x{TOKEN_COOKIE}={TOKEN}"), Err(Denied::NoToken)),
            (HOST, "localhost".into(), Err(Denied::NoToken)),
        ] {
            let given = [(name, value.as_str())];
            assert_eq!(admitted(&access, "10.0.0.1", &given), expected, "{value}");
        }
        let uri = "/socket.io/?EIO=4&token=a%2Bb".parse().unwrap();
        assert_eq!(query_token(&uri).as_deref(), Some("a+b"));
    }

    #[test]
    fn an_empty_token_admits_no_request() {
        let bearer = [(AUTHORIZATION, "Bearer x"), (HOST, "192.168.1.7")];
        let token = Access::Token(Secret::default());
        assert_eq!(admitted(&token, "127.0.0.1", &bearer), Err(Denied::WrongToken));
        let metrics = Access::ThisPcOrToken(Secret::default());
        assert_eq!(admitted(&metrics, "192.168.1.7", &bearer), Err(Denied::NotThisPc));
    }

    #[test]
    fn the_token_in_a_link_moves_from_the_url_to_a_cookie() {
        let uri = "/dashboard/x?a=1&token=so+me%3B&b=2".parse().unwrap();
        let response = keep_token("so me;", &uri);
        assert_eq!(response.headers()[LOCATION], "./x?a=1&b=2");
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap().to_owned();
        let sent = cookie.split(';').next().unwrap();
        let headers = headers(&[(COOKIE, sent)]);
        let claims =
            Claims { peer: None, method: &Method::GET, headers: &headers, query_token: None };
        assert_eq!(claims.cookie_token().as_deref(), Some("so me;"));
    }
}
