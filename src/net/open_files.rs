//! The limit of the process for open files, and the share of it that connections may take.
//!
//! Where every descriptor is a connection, the queue cannot open a segment and the link to the
//! server cannot be made. A part of the limit is therefore kept free of connections.

/// Connections of all listeners of one process together: 448 of an agent, 512 of `pitwire serve`.
pub(super) const MAX_CONNECTIONS: usize = 512;

/// Open files for everything but connections: the queue's segments and logs, the links to the
/// servers, the game's files. Where the process may open fewer than twice as many, half of them.
const RESERVED_FILES: usize = 256;

/// The soft limit that a process asks for: all connections and the reserve, twice over.
#[cfg(target_os = "linux")]
const WANTED_FILES: u64 = 2 * (MAX_CONNECTIONS + RESERVED_FILES) as u64;

/// Connections of a listener, however low the limit of the process is.
const MIN_CONNECTIONS: usize = 4;

/// Raises the limit of this process for open files as far as its connections need it and the
/// system allows it. For the start of a program.
pub fn raise_limit() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};

        let mut limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.map_or(WANTED_FILES, |maximum| maximum.min(WANTED_FILES));
        if limit.current.is_some_and(|current| current < wanted) {
            limit.current = Some(wanted);
            if let Err(error) = setrlimit(Resource::Nofile, limit) {
                tracing::debug!(%error, "cannot raise the limit of open files");
            }
        }
    }
}

/// The connections that a listener may have, out of the number that it is made for.
pub(super) fn affordable(connections: usize) -> usize {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, getrlimit};

        let limit = getrlimit(Resource::Nofile).current;
        if let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) {
            return share(connections, limit);
        }
    }
    connections
}

/// What `connections` come to where a process may have so many open files.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no such limit"))]
fn share(connections: usize, open_files: usize) -> usize {
    let available = open_files - RESERVED_FILES.min(open_files / 2);
    let share = connections * available.min(MAX_CONNECTIONS) / MAX_CONNECTIONS;
    share.max(MIN_CONNECTIONS.min(connections))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_of_open_files_scales_the_connections_down() {
        for (open_files, expected) in
            [(1 << 20, 128), (1024, 128), (768, 128), (512, 64), (200, 25), (64, 8), (8, 4)]
        {
            assert_eq!(share(128, open_files), expected, "{open_files} open files");
        }
    }

    #[test]
    fn half_of_a_low_limit_stays_free_of_connections() {
        for open_files in 64..1024 {
            let connections = share(MAX_CONNECTIONS, open_files);
            assert!(connections <= open_files - RESERVED_FILES.min(open_files / 2));
        }
    }
}
