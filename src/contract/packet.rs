//! Parsing and formatting of the Socket.IO packets that the contract needs: protocol revision 5,
//! main namespace, no binary attachments.

use serde::Serialize;

/// A received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// A request to connect to the main namespace.
    Connect,
    /// A request to connect to another namespace.
    ConnectElsewhere(&'a str),
    Disconnect,
    /// An event: `["name", …]` as text, and the acknowledgement id if the client requests one.
    Event {
        ack: Option<u64>,
        arguments: &'a str,
    },
    /// An event whose payload has binary attachments, which the contract does not have.
    EventWithAttachments,
    /// A packet that is ignored: an acknowledgement, which is never requested.
    Other,
    /// Not a valid packet.
    Broken,
}

/// Parses a packet; does not validate the arguments of an event.
pub(super) fn read(text: &str) -> Packet<'_> {
    let Some((kind, rest)) = text.split_at_checked(1) else { return Packet::Broken };
    let (namespace, rest) = if rest.starts_with('/') {
        rest.split_once(',').unwrap_or((rest, ""))
    } else {
        ("/", rest)
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
        ("5", "/") => Packet::EventWithAttachments,
        ("1" | "2" | "5", _) | ("3" | "4" | "6", _) => Packet::Other,
        _ => Packet::Broken,
    }
}

/// Admits a client.
pub(super) fn connected(id: impl std::fmt::Display) -> String {
    format!(r#"0{{"sid":"{id}"}}"#)
}

/// Refuses a client in a namespace that does not exist.
pub(super) fn no_such_namespace(namespace: &str) -> String {
    format!(r#"4{namespace},{{"message":"Invalid namespace"}}"#)
}

/// An event with one argument.
pub(super) fn event(name: &str, argument: &impl Serialize) -> serde_json::Result<String> {
    Ok(format!("2{}", serde_json::to_string(&(name, argument))?))
}

/// An acknowledgement without arguments.
pub(super) fn ack(number: u64) -> String {
    format!("3{number}[]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ack: Option<u64>, arguments: &str) -> Packet<'_> {
        Packet::Event { ack, arguments }
    }

    #[test]
    fn socket_io_packets_are_parsed() {
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
            (r#"51-["a",{"_placeholder":true,"num":0}]"#, Packet::EventWithAttachments),
            (r#"51-/admin,["a",{"_placeholder":true,"num":0}]"#, Packet::EventWithAttachments),
            (r#"61-7["a",{"_placeholder":true,"num":0}]"#, Packet::Other),
            ("", Packet::Broken),
            ("7", Packet::Broken),
            ("é", Packet::Broken),
            ("[]", Packet::Broken),
        ] {
            assert_eq!(read(text), packet, "{text}");
        }
    }
}
