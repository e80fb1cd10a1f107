//! Finds out which entries of an earlier link the server stores, so that they are not sent twice.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bindings::Bindings;
use super::{MAX_UNPROVEN_ENTRIES, Session, SessionError};
use crate::entry::{Entry, Kind, Seq, StintId};
use crate::queue::{Limit, PAGE_BYTES, PAGE_ENTRIES};
use crate::sink::{EntryId, Joined, Shown, Sink};

/// Entries of an earlier link may still be in transit in the server. The session polls what the
/// server holds until that is stable, with this pause and at most this often.
const STORED_PAUSE: Duration = Duration::from_millis(250);
const STORED_LOOKS: u32 = 20;

/// The maximum time that entries of an earlier link are in transit: 5 s.
pub(super) const IN_TRANSIT: Duration = STORED_PAUSE.saturating_mul(STORED_LOOKS);

/// Number of entries at the head of the queue that are compared with a page when this process binds
/// it for the first time: all that an earlier process may have sent without proof, plus as many
/// that were proven but whose removal was not durable yet.
const SEARCHED_ENTRIES: usize = 2 * MAX_UNPROVEN_ENTRIES;

impl<S: Sink> Session<S> {
    /// Waits until the page of the session no longer changes. An entry of ours that it shows is
    /// recorded as stored, with all before it.
    ///
    /// The server may still read entries of an earlier link after this link has joined; sending
    /// them again would publish them twice. If another publisher writes to the page, late entries
    /// cannot be seen, so this does not wait for them.
    pub(super) async fn wait_until_stable(
        &mut self,
        link: &mut S::Link,
        bindings: &Bindings,
        stint: StintId,
        session: &str,
        mut joined: Joined,
    ) -> Result<Joined, SessionError> {
        let Joined::Known(shown) = joined else { return Ok(joined) };
        self.find_stored(stint, session, shown).await?;
        for _ in 0..STORED_LOOKS {
            let Joined::Known(shown) = joined else { break };
            let newest_sent = self.learned.stored.newest_sent(stint).map(|(_, id)| id);
            let is_complete = newest_sent.is_some() && shown.frame == newest_sent;
            let is_settled = Instant::now() >= bindings.settled_at;
            if self.reader.queued() == 0 || is_complete || is_settled {
                break;
            }
            sleep(STORED_PAUSE).await;
            let before = std::mem::replace(&mut joined, self.join(link, session).await?);
            let Joined::Known(shown) = joined else { break };
            if joined == before || !self.find_stored(stint, session, shown).await? {
                break;
            }
        }
        Ok(joined)
    }

    /// Records that the server stores this entry, and with it those sent before.
    pub(super) fn note_stored(&mut self, entry: &Entry, id: EntryId) {
        self.learned.stored.note(entry, id);
        self.learned.overtaken.proven(entry.stint, entry.seq);
    }

    /// Whether a newer stored entry does not prove this one.
    pub(super) fn is_unknown(&self, seq: Seq) -> bool {
        self.learned.skipped.contains(&seq) || self.learned.overtaken.contains(seq)
    }

    /// Searches the queue for the entries that the server shows. Returns whether it found one that
    /// was not known to be stored.
    async fn find_stored(
        &mut self,
        stint: StintId,
        session: &str,
        shown: Shown,
    ) -> Result<bool, SessionError> {
        self.learned.stored.bind(stint, session);
        let mut wanted = self.learned.stored.unknown(stint, shown);
        // Until this process has sent a frame, the page may show any that an earlier process sent,
        // also one that the server reads only now.
        let is_ours_alone = self.learned.stored.newest_sent(stint).is_some();
        let end = self.learned.sent.filter(|_| is_ours_alone);
        let (mut from, mut left, mut found) = (Seq(0), SEARCHED_ENTRIES, false);
        while wanted != Shown::default() && left > 0 && end.is_none_or(|end| from <= end) {
            let limit = Limit { entries: PAGE_ENTRIES.min(left), bytes: PAGE_BYTES };
            let page = self.reader.look_ahead(from, limit).await?;
            let Some(next) = page.next else { break };
            left = left.saturating_sub(page.entries.len().max(1));
            from = next;
            for entry in page.entries.iter().filter(|entry| entry.stint == stint) {
                // Several entries may have this content. Take the first, which claims the fewest
                // entries as stored.
                let id = self.sink.identify(entry);
                if wanted.newest(entry.kind) == Some(id) && end.is_none_or(|end| entry.seq <= end) {
                    self.note_stored(entry, id);
                    self.learned.skipped.remove(&entry.seq);
                    found = true;
                    match entry.kind {
                        Kind::Frame => wanted.frame = None,
                        Kind::Setup => wanted.setup = None,
                    }
                }
            }
        }
        Ok(found)
    }
}
