//! The key that an operator probably meant by a misspelled one.

use super::destination;
use super::keys::{self, KEYS, Key, table_names};

/// The maximum number of typos in a name, which is also limited to a third of its length.
const MAX_TYPOS: usize = 3;

/// The key or table whose name is closest to a misspelled `name`, if one is close enough.
pub(super) fn nearest_key(name: &str) -> Option<String> {
    // Of a destination, the name is free, and the keys are those of `[server]`.
    if let Some((table, rest)) = name.split_once('.')
        && let Some((destination, key)) = rest.split_once('.')
        && nearest(table, [destination::TABLE].into_iter()).is_some()
    {
        let near = nearest(key, keys::of_server().iter().map(Key::last_name));
        return near.map(|key| destination::full_name(destination, key));
    }
    let tables = table_names().chain([destination::TABLE]);
    nearest(name, KEYS.iter().map(|key| key.name).chain(tables)).map(str::to_owned)
}

/// The element of `known` that is closest to a misspelled `name`, if one is close enough.
pub(crate) fn nearest(
    name: &str,
    known: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let name = name.to_lowercase();
    known.filter_map(|known| Some((typos(known, &name)?, known))).min().map(|(_, known)| known)
}

/// The number of typos in `name` if it means `known`; `None` if it does not.
fn typos(known: &str, name: &str) -> Option<usize> {
    // The key without its table, as written at the top of a file.
    if known.strip_suffix(name).is_some_and(|table| table.ends_with('.')) {
        return Some(0);
    }
    let limit = MAX_TYPOS.min(known.len() / 3);
    if known.len().abs_diff(name.len()) > limit {
        return None;
    }
    // Two letters in the wrong order are one typo.
    Some(strsim::osa_distance(known, name)).filter(|typos| *typos <= limit)
}
