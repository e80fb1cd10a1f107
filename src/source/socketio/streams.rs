//! What is remembered of publishers: the ids given out, the stream that each belongs to, the stint
//! that a stream is in, and where the pages of stints are.
//!
//! A publisher that is started again asks for a new id. It goes on with the stream of one that has
//! left if there is no doubt which: the one of the same driver or the same setup, or the only one.
//! In doubt it gets a stream of its own, and so another page: no car is ever shown on another's.
//!
//! It lies in a small file beside the queue, so that after a crash of the agent a publisher goes on
//! under the id that it has. Written without a flush: what a power cut takes along, it takes from
//! publishers that are gone too. Names of drivers are stored as fingerprints of fixed length.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{MAX_PAGES, MAX_STREAMS};
use crate::entry::{StintId, Stream};

/// The newest ids, streams and pages.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Streams {
    /// The one that was used last is the last.
    ids: Vec<Given>,
    /// Likewise.
    streams: Vec<Known>,
    pages: Vec<Page>,
}

/// An id that was given out.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Given {
    id: String,
    /// `None` until something is sent under it.
    stream: Option<Stream>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    stream: Stream,
    /// Where its newest entry is.
    stint: Option<StintId>,
    sender: Sender,
}

/// What of a sample tells who sends it.
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

/// The page of the session that the dashboard server gave to a stint.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Page {
    stint: StintId,
    url: String,
}

/// Where people who have an id can look.
#[derive(Debug, PartialEq)]
pub(super) enum Place<'a> {
    /// No entry of it was ever stored.
    Empty,
    /// Its entries are stored, and the dashboard server has not given their stint a page yet.
    Stored,
    Page(&'a str),
}

/// Whether what is remembered is another than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    None,
    Changed,
}

/// Whether a stream may be gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Somebody sends to it.
    Fed,
    /// Nobody does, and it was sent to not long ago.
    Left,
    /// Its next entry would begin another stint.
    Over,
}

impl Streams {
    /// What the file holds; nothing if there is none or it cannot be read back.
    pub(super) fn load(file: &Path) -> Self {
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "publishers' ids cannot be read");
                return Self::default();
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "publishers' ids cannot be read back");
            Self::default()
        })
    }

    /// What [`Streams::load`] reads.
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Adds an id; false if there is no room. Evicts an id that was never used, or else the least
    /// recently used one, but never that of a connected publisher.
    pub(super) fn give(&mut self, id: &str, is_connected: impl Fn(&str) -> bool) -> bool {
        if self.ids.len() >= MAX_STREAMS {
            let is_free = |given: &Given| !is_connected(&given.id);
            let unused = |given: &Given| given.stream.is_none() && is_free(given);
            let free = self.ids.iter().position(unused);
            let Some(index) = free.or_else(|| self.ids.iter().position(is_free)) else {
                return false;
            };
            self.ids.remove(index);
        }
        self.ids.push(Given { id: id.into(), stream: None });
        true
    }

    /// Whether an entry was sent under that id before.
    pub(super) fn is_used(&self, id: &str) -> bool {
        self.stream(id).is_some()
    }

    /// Whether the id was assigned and is not evicted.
    pub(super) fn is_known(&self, id: &str) -> bool {
        self.ids.iter().any(|given| given.id == id)
    }

    /// The stream of that id, which counts as used now.
    pub(super) fn used(
        &mut self,
        id: &str,
        sender: Sender,
        state: impl Fn(&Stream) -> State,
    ) -> Option<(Stream, Change)> {
        let given = last(&mut self.ids, |given| given.id == id)?;
        let (stream, change) = match given.stream.clone() {
            Some(stream) => (stream, Change::None),
            None => {
                let left = left_by(&self.streams, &sender, state);
                let stream = left.unwrap_or_else(|| Stream::from(id));
                given.stream = Some(stream.clone());
                (stream, Change::Changed)
            }
        };
        match last(&mut self.streams, |known| known.stream == stream) {
            Some(known) => known.sender.learn(sender),
            None => {
                let known = Known { stream: stream.clone(), stint: None, sender };
                push(&mut self.streams, known, MAX_STREAMS);
            }
        }
        Some((stream, change))
    }

    /// The newest entry of the stream is in `stint`.
    pub(super) fn is_in(&mut self, stream: &Stream, stint: StintId) -> Change {
        match self.streams.iter_mut().find(|known| known.stream == *stream) {
            Some(known) if known.stint != Some(stint) => {
                known.stint = Some(stint);
                Change::Changed
            }
            _ => Change::None,
        }
    }

    /// The page of a stint is there.
    pub(super) fn show(&mut self, stint: StintId, url: &str) -> Change {
        if self.page(stint) == Some(url) {
            return Change::None;
        }
        self.pages.retain(|page| page.stint != stint);
        push(&mut self.pages, Page { stint, url: url.into() }, MAX_PAGES);
        Change::Changed
    }

    /// The stream of that id; `None` if there is no such id, or nothing was sent under it.
    pub(super) fn stream(&self, id: &str) -> Option<&Stream> {
        self.ids.iter().find(|given| given.id == id)?.stream.as_ref()
    }

    /// Where to look for what is sent under that id; `None` if there is no such id.
    pub(super) fn place(&self, id: &str) -> Option<Place<'_>> {
        let given = self.ids.iter().find(|given| given.id == id)?;
        let known = self.streams.iter().find(|known| Some(&known.stream) == given.stream.as_ref());
        Some(match known.and_then(|known| known.stint) {
            None => Place::Empty,
            Some(stint) => self.page(stint).map_or(Place::Stored, Place::Page),
        })
    }

    fn page(&self, stint: StintId) -> Option<&str> {
        self.pages.iter().find(|page| page.stint == stint).map(|page| page.url.as_str())
    }
}

/// The stream that this sender left, if there is no doubt.
fn left_by(streams: &[Known], sender: &Sender, state: impl Fn(&Stream) -> State) -> Option<Stream> {
    let is_going = |known: &&Known| state(&known.stream) != State::Over;
    let going: Vec<&Known> = streams.iter().filter(is_going).collect();
    let left = going.iter().filter(|known| state(&known.stream) == State::Left);
    let of_sender: Vec<_> = left.clone().filter(|known| sender.is(&known.sender)).collect();
    let chosen = match of_sender[..] {
        [one] => Some(*one),
        [] if going.len() == 1 => left.copied().next(),
        _ => None,
    };
    chosen.map(|known| known.stream.clone())
}

/// Puts one at the end; the first ones make room.
fn push<T>(list: &mut Vec<T>, one: T, most: usize) {
    let excess = (list.len() + 1).saturating_sub(most);
    list.drain(..excess);
    list.push(one);
}

/// The one that is meant, as the last from now on.
fn last<T>(list: &mut [T], is_meant: impl Fn(&T) -> bool) -> Option<&mut T> {
    let index = list.iter().position(is_meant)?;
    list[index..].rotate_left(1);
    list.last_mut()
}

/// Puts a text into the file: a crash leaves the old or the new one. One at a time.
pub(super) async fn save(file: &Path, text: serde_json::Result<String>) -> io::Result<()> {
    let (file, text) = (file.to_owned(), text?);
    let replace = move || crate::queue::replace_undurably(&file, text.as_bytes());
    tokio::task::spawn_blocking(replace).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Sender {
        Sender::default()
    }

    fn fingerprint(name: &str) -> u64 {
        crate::fields::text_fingerprint(name)
    }

    /// Of nobody who is connected.
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
    fn an_id_leads_to_the_page_of_the_stint_that_its_stream_is_in() {
        let mut streams = Streams::default();
        assert_eq!(streams.place("1"), None);
        give(&mut streams, "1");
        assert_eq!(streams.place("1"), Some(Place::Empty));
        let (stream, _) = streams.used("1", nobody(), |_| State::Over).unwrap();
        assert_eq!(streams.is_in(&stream, StintId(4)), Change::Changed);
        assert_eq!(streams.is_in(&stream, StintId(4)), Change::None);
        assert_eq!(streams.place("1"), Some(Place::Stored));
        assert_eq!(streams.show(StintId(4), "a"), Change::Changed);
        assert_eq!(streams.place("1"), Some(Place::Page("a")));
        // The server forgot the session.
        assert_eq!(streams.show(StintId(4), "b"), Change::Changed);
        assert_eq!(streams.show(StintId(4), "b"), Change::None);
        assert_eq!(streams.place("1"), Some(Place::Page("b")));
        // The page may be there before the first entry.
        streams.show(StintId(5), "c");
        streams.is_in(&stream, StintId(5));
        assert_eq!(streams.place("1"), Some(Place::Page("c")));
    }

    #[test]
    fn who_comes_back_goes_on_with_what_it_left_and_in_doubt_with_nothing() {
        let use_of = |streams: &mut Streams, id: &str, sender: Sender, state: State| {
            give(streams, id);
            streams.used(id, sender, |_| state).unwrap().0.0.to_string()
        };
        let mut streams = Streams::default();
        // The only one there ever was: another driver, the same car.
        assert_eq!(use_of(&mut streams, "a", driver("Zoë"), State::Over), "a");
        assert_eq!(use_of(&mut streams, "b", driver("Max"), State::Left), "a");
        // As long as somebody sends to it, or it is over, it is nobody else's.
        assert_eq!(use_of(&mut streams, "c", driver("Max"), State::Over), "c");
        assert_eq!(use_of(&mut streams, "d", driver("Ida"), State::Fed), "d");
        // Three have left.
        assert_eq!(use_of(&mut streams, "e", driver("Ida"), State::Left), "d");
        assert_eq!(use_of(&mut streams, "f", driver("Max"), State::Left), "f");
        assert_eq!(use_of(&mut streams, "g", driver("Eva"), State::Left), "g");
        assert_eq!(use_of(&mut streams, "h", nobody(), State::Left), "h");
        // A setup comes before the first frame.
        assert_eq!(streams.used("d", setup(7), |_| State::Fed).unwrap().0, Stream::from("d"));
        assert_eq!(use_of(&mut streams, "i", setup(7), State::Left), "d");
        assert_eq!(use_of(&mut streams, "j", setup(8), State::Left), "j");
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_is_forgotten_first() {
        let mut streams = Streams::default();
        (0..MAX_STREAMS).for_each(|number| give(&mut streams, &number.to_string()));
        let is_known =
            |id: &str, streams: &mut Streams| streams.used(id, nobody(), |_| State::Over).is_some();
        assert!(is_known("0", &mut streams));
        give(&mut streams, &MAX_STREAMS.to_string());
        assert!(is_known("0", &mut streams));
        assert!(!is_known("1", &mut streams));
        assert!(is_known("2", &mut streams));
        for number in 0..2 * MAX_PAGES as u64 {
            streams.show(StintId(number), "a");
        }
        assert_eq!(streams.pages.len(), MAX_PAGES);
    }

    #[test]
    fn an_id_of_a_connected_publisher_is_never_forgotten() {
        let mut streams = Streams::default();
        (0..MAX_STREAMS).for_each(|number| give(&mut streams, &number.to_string()));
        streams.used("0", nobody(), |_| State::Over).unwrap();
        // One that was never used goes before one that was not used for long.
        give(&mut streams, "a");
        assert!(streams.is_known("0") && !streams.is_known("1"));
        assert!(streams.give("b", |id| id != "7"));
        assert!(!streams.is_known("7"));
        assert!(!streams.give("c", |_| true));
        assert!(!streams.is_known("c"));
    }

    #[tokio::test]
    async fn a_file_brings_it_back_and_a_broken_one_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("streams.json");
        assert_eq!(Streams::load(&file), Streams::default());
        let mut streams = Streams::default();
        give(&mut streams, "1");
        let (stream, _) = streams.used("1", driver("Zoë"), |_| State::Over).unwrap();
        streams.is_in(&stream, StintId(2));
        streams.show(StintId(2), "a");
        save(&file, streams.to_json()).await.unwrap();
        assert_eq!(Streams::load(&file), streams);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(Streams::load(&file), Streams::default());
    }
}
