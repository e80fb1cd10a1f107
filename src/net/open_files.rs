//! The open-files limit of the process, and the share of it that connections may use.
//!
//! If connections used all descriptors, the queue could not open a segment and the session could
//! not connect to the server. Therefore a part of the limit is reserved.

/// The maximum connections of all listeners of a process: an agent has up to 448, `pitwire serve`
/// 512.
pub(super) const MAX_CONNECTIONS: usize = 512;

/// Open files reserved for everything but connections: the queue's segments and logs, the links to
/// the servers, the game's files. Half of the limit, if the limit is below twice this number.
const RESERVED_FILES: usize = 256;

/// The soft limit that the process requests: twice the sum of connections and reserve.
#[cfg(target_os = "linux")]
const WANTED_FILES: u64 = 2 * (MAX_CONNECTIONS + RESERVED_FILES) as u64;

/// The minimum connections of a listener, regardless of the limit of the process.
const MIN_CONNECTIONS: usize = 4;

/// Raises the open-files limit of this process as far as its connections need and the system
/// allows. Call it at the start of a program.
pub fn raise_limit() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};

        let mut limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.map_or(WANTED_FILES, |maximum| maximum.min(WANTED_FILES));
        if limit.current.is_some_and(|current| current < wanted) {
            limit.current = Some(wanted);
            if let Err(error) = setrlimit(Resource::Nofile, limit) {
                tracing::debug!(%error, "cannot raise the open-files limit");
            }
        }
    }
}

/// The connections that a listener may have: the requested number, scaled down if the open-files
/// limit is low.
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

/// Scales `connections` to an open-files limit.
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
    fn a_low_open_file_limit_reduces_the_connection_limit() {
        for (open_files, expected) in
            [(1 << 20, 128), (1024, 128), (768, 128), (512, 64), (200, 25), (64, 8), (8, 4)]
        {
            assert_eq!(share(128, open_files), expected, "{open_files} open files");
        }
    }

    #[test]
    fn connections_never_use_the_reserved_open_files() {
        for open_files in 64..1024 {
            let connections = share(MAX_CONNECTIONS, open_files);
            assert!(connections <= open_files - RESERVED_FILES.min(open_files / 2));
        }
    }
}
