//! Socket.IO packets as text, as far as the contract needs them: revision 5 of the protocol, the
//! main namespace, no binary attachments.

use serde::Serialize;

/// A packet that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// A client wants in.
    Connect,
    /// A client wants to another namespace than the main one.
    ConnectElsewhere(&'a str),
    Disconnect,
    /// An event: `["name", …]` as text, and the number to acknowledge it under if it wants that.
    Event {
        ack: Option<u64>,
        arguments: &'a str,
    },
    /// An acknowledgement, which nobody waits for, or what has attachments.
    Other,
    /// No packet at all.
    Broken,
}

/// Reads a packet; what an event holds is not looked at.
pub(super) fn read(text: &str) -> Packet<'_> {
    let Some((kind, rest)) = text.split_at_checked(1) else { return Packet::Broken };
    let (namespace, rest) = match rest.starts_with('/') {
        true => rest.split_once(',').unwrap_or((rest, "")),
        false => ("/", rest),
    };
    match (kind, namespace) {
        ("0", "/") => Packet::Connect,
        ("0", elsewhere) => Packet::ConnectElsewhere(elsewhere),
        ("1", "/") => Packet::Disconnect,
        ("2", "/") => {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, arguments) = rest.split_at(digits);
            Packet::Event { ack: number.parse().ok(), arguments }
        }
        ("1" | "2", _) | ("3" | "4" | "5" | "6", _) => Packet::Other,
        _ => Packet::Broken,
    }
}

/// Lets a client in.
pub(super) fn connected(id: impl std::fmt::Display) -> String {
    format!(r#"0{{"sid":"{id}"}}"#)
}

/// Keeps a client out of another namespace, as nothing is there.
pub(super) fn no_such_namespace(namespace: &str) -> String {
    format!(r#"4{namespace},{{"message":"Invalid namespace"}}"#)
}

/// Keeps a client out of the main namespace. The reason is ours: it holds nothing to be escaped.
pub(super) fn refused(reason: &str) -> String {
    format!(r#"4{{"message":"{reason}"}}"#)
}

/// An event with one argument.
pub(super) fn event(name: &str, argument: &impl Serialize) -> serde_json::Result<String> {
    Ok(format!("2{}", serde_json::to_string(&(name, argument))?))
}

/// An acknowledgement that says nothing.
pub(super) fn ack(number: u64) -> String {
    format!("3{number}[]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_are_written() {
        let event = |ack, arguments| Packet::Event { ack, arguments };
        for (text, packet) in [
            ("0", Packet::Connect),
            (r#"0{"token":"a"}"#, Packet::Connect),
            ("0/,", Packet::Connect),
            (r#"0/admin,{"token":"a"}"#, Packet::ConnectElsewhere("/admin")),
            ("0/admin", Packet::ConnectElsewhere("/admin")),
            ("1", Packet::Disconnect),
            ("1/admin,", Packet::Other),
            (r#"2["a",{}]"#, event(None, r#"["a",{}]"#)),
            (r#"217["a",1]"#, event(Some(17), r#"["a",1]"#)),
            (r#"2/,0["a"]"#, event(Some(0), r#"["a"]"#)),
            (r#"2/admin,0["a"]"#, Packet::Other),
            ("299999999999999999999[]", event(None, "[]")),
            ("2", event(None, "")),
            ("30[]", Packet::Other),
            (r#"51-["a",{"_placeholder":true,"num":0}]"#, Packet::Other),
            ("", Packet::Broken),
            ("7", Packet::Broken),
            ("é", Packet::Broken),
            ("[]", Packet::Broken),
        ] {
            assert_eq!(read(text), packet, "{text}");
        }
    }
}
