//! What is remembered of publishers: the streams given out, the stint that each is in, and where
//! the pages of stints are.
//!
//! It lies in a small file beside the queue, so that after a crash of the agent a publisher goes on
//! under the id that it has. Written without a flush: what a power cut takes along, it takes from
//! publishers that are gone too.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{MAX_PAGES, MAX_STREAMS};
use crate::entry::{StintId, Stream};

/// The newest streams and pages.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Streams {
    /// The one that was used last is the last.
    streams: Vec<Known>,
    pages: Vec<Page>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    stream: Stream,
    /// Where its newest entry is.
    stint: Option<StintId>,
}

/// The page of the session that the dashboard server gave to a stint.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Page {
    stint: StintId,
    url: String,
}

/// Where people who have a stream's id can look.
#[derive(Debug, PartialEq)]
pub(super) enum Place<'a> {
    /// No entry of it was ever stored.
    Empty,
    /// Its entries are stored, and the dashboard server has not given their stint a page yet.
    Stored,
    Page(&'a str),
}

/// Whether what is remembered is another than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Changed,
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

    /// A stream that is given out. The one that was not used for the longest time makes room.
    pub(super) fn add(&mut self, stream: Stream) {
        self.streams.push(Known { stream, stint: None });
        let excess = self.streams.len().saturating_sub(MAX_STREAMS);
        self.streams.drain(..excess);
    }

    /// The stream of that id, which counts as used now.
    pub(super) fn used(&mut self, id: &str) -> Option<Stream> {
        let index = self.streams.iter().position(|known| known.stream.0 == id)?;
        self.streams[index..].rotate_left(1);
        self.streams.last().map(|known| known.stream.clone())
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
        let excess = (self.pages.len() + 1).saturating_sub(MAX_PAGES);
        self.pages.drain(..excess);
        self.pages.push(Page { stint, url: url.into() });
        Change::Changed
    }

    /// Where to look for the stream of that id; `None` if there is no such stream.
    pub(super) fn place(&self, id: &str) -> Option<Place<'_>> {
        let known = self.streams.iter().find(|known| known.stream.0 == id)?;
        Some(match known.stint {
            None => Place::Empty,
            Some(stint) => self.page(stint).map_or(Place::Stored, Place::Page),
        })
    }

    fn page(&self, stint: StintId) -> Option<&str> {
        self.pages.iter().find(|page| page.stint == stint).map(|page| page.url.as_str())
    }
}

/// Puts a text into the file: a crash leaves the old or the new one. One at a time.
pub(super) async fn save(file: &Path, text: serde_json::Result<String>) -> io::Result<()> {
    let temporary = file.with_extension("tmp");
    tokio::fs::write(&temporary, text?).await?;
    tokio::fs::rename(&temporary, file).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(number: usize) -> Stream {
        Stream(number.to_string())
    }

    #[test]
    fn a_stream_leads_to_the_page_of_the_stint_that_it_is_in() {
        let mut streams = Streams::default();
        assert_eq!(streams.place("1"), None);
        streams.add(stream(1));
        assert_eq!(streams.place("1"), Some(Place::Empty));
        assert_eq!(streams.is_in(&stream(1), StintId(4)), Change::Changed);
        assert_eq!(streams.is_in(&stream(1), StintId(4)), Change::None);
        assert_eq!(streams.place("1"), Some(Place::Stored));
        assert_eq!(streams.show(StintId(4), "a"), Change::Changed);
        assert_eq!(streams.place("1"), Some(Place::Page("a")));
        // The server forgot the session.
        assert_eq!(streams.show(StintId(4), "b"), Change::Changed);
        assert_eq!(streams.show(StintId(4), "b"), Change::None);
        assert_eq!(streams.place("1"), Some(Place::Page("b")));
        // The page may be there before the first entry.
        streams.show(StintId(5), "c");
        streams.is_in(&stream(1), StintId(5));
        assert_eq!(streams.place("1"), Some(Place::Page("c")));
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_is_forgotten_first() {
        let mut streams = Streams::default();
        (0..MAX_STREAMS).for_each(|number| streams.add(stream(number)));
        assert_eq!(streams.used("0"), Some(stream(0)));
        streams.add(stream(MAX_STREAMS));
        assert_eq!(streams.used("0"), Some(stream(0)));
        assert_eq!(streams.used("1"), None);
        assert_eq!(streams.used("2"), Some(stream(2)));
        for number in 0..2 * MAX_PAGES as u64 {
            streams.show(StintId(number), "a");
        }
        assert_eq!(streams.pages.len(), MAX_PAGES);
    }

    #[tokio::test]
    async fn a_file_brings_it_back_and_a_broken_one_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("streams.json");
        assert_eq!(Streams::load(&file), Streams::default());
        let mut streams = Streams::default();
        streams.add(stream(1));
        streams.is_in(&stream(1), StintId(2));
        streams.show(StintId(2), "a");
        save(&file, streams.to_json()).await.unwrap();
        assert_eq!(Streams::load(&file), streams);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(Streams::load(&file), Streams::default());
    }
}
