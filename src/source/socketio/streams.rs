//! The persistent state of publishers: the assigned ids, the stream of each id, the current stint
//! of each stream, and the URL of each stint's page.
//!
//! A restarted publisher asks for a new id. It resumes the stream of a disconnected publisher if
//! the match is unambiguous: the stream with the same driver or the same setup, or the only stream.
//! Otherwise it gets a new stream and therefore a new page, so that two cars never share a page.
//!
//! The state is saved in a small file beside the queue, so that a publisher keeps its id when the
//! agent crashes. It is written without a flush: a power cut that loses it also ends the publishers
//! that would need it. Drivers' names are stored as fingerprints of fixed length.

use std::fs;
use std::io;
use std::path::Path;

use crate::entry::{CarId, MAX_PAGES, MAX_STREAMS, StintId};
use serde::{Deserialize, Serialize};

/// The newest ids, streams and pages.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Streams {
    /// Least recently used first.
    ids: Vec<AssignedId>,
    /// Least recently used first.
    streams: Vec<PublisherStream>,
    pages: Vec<SessionPage>,
}

/// An assigned session id.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct AssignedId {
    id: String,
    /// `None` until an entry is sent under the id.
    car: Option<CarId>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct PublisherStream {
    car: CarId,
    /// The stint of its newest entry.
    stint: Option<StintId>,
    sender: Sender,
}

/// The properties of a sample that identify its sender.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sender {
    /// The fingerprint of the driver's name.
    pub(super) driver: Option<u64>,
    /// The fingerprint of the setup.
    pub(super) setup: Option<u64>,
}

impl Sender {
    fn is(&self, known: &Self) -> bool {
        match (self.driver, self.setup) {
            (Some(driver), _) => known.driver == Some(driver),
            (None, Some(setup)) => known.setup == Some(setup),
            (None, None) => false,
        }
    }

    fn learn(&mut self, newer: Self) {
        self.driver = newer.driver.or(self.driver);
        self.setup = newer.setup.or(self.setup);
    }
}

/// The page of the session that the dashboard server assigned to a stint.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SessionPage {
    stint: StintId,
    url: String,
}

/// What `/dashboard/<id>` shows for a known id.
#[derive(Debug, PartialEq)]
pub(super) enum PageTarget<'a> {
    /// No entry was ever stored under this id.
    Empty,
    /// Entries are stored, but the dashboard server has not assigned a page to their stint yet.
    Stored,
    Page(&'a str),
}

/// Whether an operation changed the state that is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StateChange {
    None,
    Changed,
}

/// Whether a restarted publisher may resume a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    /// Another connected publisher sends to it.
    Fed,
    /// No connected publisher sends to it, and its stint can still continue.
    Left,
    /// Its next entry would start a new stint.
    Over,
}

impl Streams {
    /// Reads the file; empty if it does not exist or is not readable.
    pub(super) fn load(file: &Path) -> Self {
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                let file = file.display();
                tracing::warn!(%file, %error, "cannot read the publishers' ids; starting without");
                return Self::default();
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            let file = file.display();
            tracing::warn!(%file, %error, "the publishers' ids are damaged; starting without");
            Self::default()
        })
    }

    /// The text that [`Streams::load`] reads.
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Adds an id; false if there is no room. Evicts an unused id, or else the least recently used
    /// one, but never the id of a connected publisher.
    pub(super) fn give(&mut self, id: &str, is_connected: impl Fn(&str) -> bool) -> bool {
        if self.ids.len() >= MAX_STREAMS {
            let oldest_free = self
                .ids
                .iter()
                .enumerate()
                .filter(|(_, assigned)| !is_connected(&assigned.id))
                .min_by_key(|(_, assigned)| assigned.car.is_some());
            let Some((index, _)) = oldest_free else { return false };
            self.ids.remove(index);
        }
        self.ids.push(AssignedId { id: id.into(), car: None });
        true
    }

    /// Whether an entry has been sent under that id.
    pub(super) fn is_used(&self, id: &str) -> bool {
        self.car(id).is_some()
    }

    /// Whether the id was assigned and has not been evicted.
    pub(super) fn is_known(&self, id: &str) -> bool {
        self.ids.iter().any(|given| given.id == id)
    }

    /// The stream of that id, assigned if it has none yet. Marks id and stream as just used.
    pub(super) fn used(
        &mut self,
        id: &str,
        sender: Sender,
        state: impl Fn(&CarId) -> Availability,
    ) -> Option<(CarId, StateChange)> {
        let given = last(&mut self.ids, |given| given.id == id)?;
        let (stream, change) = match given.car.clone() {
            Some(stream) => (stream, StateChange::None),
            None => {
                let left = left_by(&self.streams, &sender, state);
                let stream = left.unwrap_or_else(|| CarId::from(id));
                given.car = Some(stream.clone());
                (stream, StateChange::Changed)
            }
        };
        match last(&mut self.streams, |known| known.car == stream) {
            Some(known) => known.sender.learn(sender),
            None => {
                let known = PublisherStream { car: stream.clone(), stint: None, sender };
                push(&mut self.streams, known, MAX_STREAMS);
            }
        }
        Some((stream, change))
    }

    /// Records that the newest entry of the stream is in `stint`.
    pub(super) fn is_in(&mut self, car: &CarId, stint: StintId) -> StateChange {
        match self.streams.iter_mut().find(|known| known.car == *car) {
            Some(known) if known.stint != Some(stint) => {
                known.stint = Some(stint);
                StateChange::Changed
            }
            _ => StateChange::None,
        }
    }

    /// Records the page of a stint.
    pub(super) fn show(&mut self, stint: StintId, url: &str) -> StateChange {
        if self.page(stint) == Some(url) {
            return StateChange::None;
        }
        self.pages.retain(|page| page.stint != stint);
        push(&mut self.pages, SessionPage { stint, url: url.into() }, MAX_PAGES);
        StateChange::Changed
    }

    /// The stream of that id; `None` if the id is unknown or unused.
    pub(super) fn car(&self, id: &str) -> Option<&CarId> {
        self.ids.iter().find(|given| given.id == id)?.car.as_ref()
    }

    /// What to show for that id; `None` if the id is unknown.
    pub(super) fn place(&self, id: &str) -> Option<PageTarget<'_>> {
        let given = self.ids.iter().find(|given| given.id == id)?;
        let known = self.streams.iter().find(|known| Some(&known.car) == given.car.as_ref());
        Some(match known.and_then(|known| known.stint) {
            None => PageTarget::Empty,
            Some(stint) => self.page(stint).map_or(PageTarget::Stored, PageTarget::Page),
        })
    }

    fn page(&self, stint: StintId) -> Option<&str> {
        self.pages.iter().find(|page| page.stint == stint).map(|page| page.url.as_str())
    }
}

/// The stream that this sender used before it disconnected, if the match is unambiguous.
fn left_by(
    streams: &[PublisherStream],
    sender: &Sender,
    state: impl Fn(&CarId) -> Availability,
) -> Option<CarId> {
    let going: Vec<&PublisherStream> =
        streams.iter().filter(|known| state(&known.car) != Availability::Over).collect();
    let left = going.iter().filter(|known| state(&known.car) == Availability::Left);
    let of_sender: Vec<_> = left.clone().filter(|known| sender.is(&known.sender)).collect();
    let chosen = match of_sender[..] {
        [one] => Some(*one),
        [] if going.len() == 1 => left.copied().next(),
        _ => None,
    };
    chosen.map(|known| known.car.clone())
}

/// Appends an item and removes as many from the front as exceed `most`.
fn push<T>(list: &mut Vec<T>, one: T, most: usize) {
    let excess = (list.len() + 1).saturating_sub(most);
    list.drain(..excess);
    list.push(one);
}

/// Finds an item and moves it to the end of the list, the most recently used position.
fn last<T>(list: &mut [T], is_meant: impl Fn(&T) -> bool) -> Option<&mut T> {
    let index = list.iter().position(is_meant)?;
    list[index..].rotate_left(1);
    list.last_mut()
}

/// Replaces the file's content; a crash leaves either the old or the new text. Calls must not
/// overlap.
pub(super) async fn save(file: &Path, text: serde_json::Result<String>) -> io::Result<()> {
    let (file, text) = (file.to_owned(), text?);
    tokio::task::spawn_blocking(move || crate::queue::replace_undurably(&file, text.as_bytes()))
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_driver() -> Sender {
        Sender::default()
    }

    fn fingerprint(name: &str) -> u64 {
        crate::fields::text_fingerprint(name)
    }

    /// Assigns an id while no publisher is connected.
    fn give(streams: &mut Streams, id: &str) {
        assert!(streams.give(id, |_| false));
    }

    fn driver(name: &str) -> Sender {
        Sender { driver: Some(fingerprint(name)), setup: None }
    }

    fn setup(fingerprint: u64) -> Sender {
        Sender { driver: None, setup: Some(fingerprint) }
    }

    #[test]
    fn a_session_id_resolves_to_the_page_of_its_current_stint() {
        let mut streams = Streams::default();
        assert_eq!(streams.place("1"), None);
        give(&mut streams, "1");
        assert_eq!(streams.place("1"), Some(PageTarget::Empty));
        let (car, _) = streams.used("1", no_driver(), |_| Availability::Over).unwrap();
        assert_eq!(streams.is_in(&car, StintId(4)), StateChange::Changed);
        assert_eq!(streams.is_in(&car, StintId(4)), StateChange::None);
        assert_eq!(streams.place("1"), Some(PageTarget::Stored));
        assert_eq!(streams.show(StintId(4), "a"), StateChange::Changed);
        assert_eq!(streams.place("1"), Some(PageTarget::Page("a")));
        // The server forgot the session and assigned another page.
        assert_eq!(streams.show(StintId(4), "b"), StateChange::Changed);
        assert_eq!(streams.show(StintId(4), "b"), StateChange::None);
        assert_eq!(streams.place("1"), Some(PageTarget::Page("b")));
        // The page may be known before the first entry.
        streams.show(StintId(5), "c");
        streams.is_in(&car, StintId(5));
        assert_eq!(streams.place("1"), Some(PageTarget::Page("c")));
    }

    fn use_of(streams: &mut Streams, id: &str, sender: Sender, state: Availability) -> String {
        give(streams, id);
        streams.used(id, sender, |_| state).unwrap().0.0.to_string()
    }

    fn is_known(streams: &mut Streams, id: &str) -> bool {
        streams.used(id, no_driver(), |_| Availability::Over).is_some()
    }

    #[test]
    fn a_returning_publisher_resumes_its_car_unless_ambiguous() {
        let mut streams = Streams::default();
        // The only stream is resumed even by another driver: it is the same car.
        assert_eq!(use_of(&mut streams, "a", driver("Zoë"), Availability::Over), "a");
        assert_eq!(use_of(&mut streams, "b", driver("Max"), Availability::Left), "a");
        // A stream that is in use, or whose stint is over, is not resumed.
        assert_eq!(use_of(&mut streams, "c", driver("Max"), Availability::Over), "c");
        assert_eq!(use_of(&mut streams, "d", driver("Ida"), Availability::Fed), "d");
        // Three streams are free: one matching driver is found, otherwise the match is ambiguous.
        assert_eq!(use_of(&mut streams, "e", driver("Ida"), Availability::Left), "d");
        assert_eq!(use_of(&mut streams, "f", driver("Max"), Availability::Left), "f");
        assert_eq!(use_of(&mut streams, "g", driver("Eva"), Availability::Left), "g");
        assert_eq!(use_of(&mut streams, "h", no_driver(), Availability::Left), "h");
        // A publisher that sends its setup before its first frame is matched by the setup.
        assert_eq!(streams.used("d", setup(7), |_| Availability::Fed).unwrap().0, CarId::from("d"));
        assert_eq!(use_of(&mut streams, "i", setup(7), Availability::Left), "d");
        assert_eq!(use_of(&mut streams, "j", setup(8), Availability::Left), "j");
    }

    #[test]
    fn the_least_recently_used_session_id_is_evicted_first() {
        let mut streams = Streams::default();
        (0..MAX_STREAMS).for_each(|number| give(&mut streams, &number.to_string()));
        assert!(is_known(&mut streams, "0"));
        give(&mut streams, &MAX_STREAMS.to_string());
        assert!(is_known(&mut streams, "0"));
        assert!(!is_known(&mut streams, "1"));
        assert!(is_known(&mut streams, "2"));
        for number in 0..2 * MAX_PAGES as u64 {
            streams.show(StintId(number), "a");
        }
        assert_eq!(streams.pages.len(), MAX_PAGES);
    }

    #[test]
    fn the_session_id_of_a_connected_publisher_is_never_evicted() {
        let mut streams = Streams::default();
        (0..MAX_STREAMS).for_each(|number| give(&mut streams, &number.to_string()));
        streams.used("0", no_driver(), |_| Availability::Over).unwrap();
        // An unused id is evicted before the least recently used one.
        give(&mut streams, "a");
        assert!(streams.is_known("0") && !streams.is_known("1"));
        assert!(streams.give("b", |id| id != "7"));
        assert!(!streams.is_known("7"));
        assert!(!streams.give("c", |_| true));
        assert!(!streams.is_known("c"));
    }

    #[tokio::test]
    async fn streams_are_restored_from_their_file_unless_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("streams.json");
        assert_eq!(Streams::load(&file), Streams::default());
        let mut streams = Streams::default();
        give(&mut streams, "1");
        let (car, _) = streams.used("1", driver("Zoë"), |_| Availability::Over).unwrap();
        streams.is_in(&car, StintId(2));
        streams.show(StintId(2), "a");
        save(&file, streams.to_json()).await.unwrap();
        assert_eq!(Streams::load(&file), streams);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(Streams::load(&file), Streams::default());
    }
}
