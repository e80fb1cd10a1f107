//! Models a server as a pure state machine over its acknowledgements, echoes, joins and order. Each
//! state defines when an entry counts as delivered; each transition names the evidence for it.
//!
//! # What "delivered" means
//!
//! | [`Confirmation`] | an entry is delivered once |
//! | --- | --- |
//! | `Unknown` | undetermined: one entry is sent to find out |
//! | `Echo` | the server echoed it, or a later one of ours on the same connection |
//! | `Ack` | the server acknowledged it and then showed it in answer to a join ([`Joins`]) |
//! | `Asked` | the server showed it in answer to a join; it acknowledges and echoes nothing |
//! | `Written` | the connection outlived it by two heartbeats; the server answers nothing at all |
//!
//! If `joins` is `Unanswered`, the server cannot be queried, and `Ack` means acknowledged only. If
//! another publisher's entries hide ours, `Ack` means acknowledged for a session that the server
//! knows.
//!
//! # Transitions
//!
//! Each row is a unit test with this name. Fields that a row does not mention are unchanged.
//!
//! | row | evidence | state before | state after |
//! | --- | --- | --- | --- |
//! | `a_new_connection_resets_the_confirmation_state` | `Connected` | any | `Unknown`, joins `Assumed`; counters, order and `echoes` unchanged |
//! | `a_shown_session_means_that_joins_are_answered` | `SessionShown` | any | joins `Shows` |
//! | `a_server_that_shows_entries_keeps_some` | `SessionShown` | keeping `NothingAgain` | also keeping `Nothing` |
//! | `a_server_without_other_proof_is_verified_by_joins` | `SessionShown` | `Unknown`, found stored on 2 links | `Asked`, 0 links without proof |
//! | `a_join_answer_resets_the_count_of_unanswered_joins` | `JoinAnswered` | any | 0 joins unanswered |
//! | `an_unanswered_join_is_counted` | `JoinTimedOut` | any | 1 more join unanswered |
//! | `giving_up_on_joins_marks_them_as_unanswered` | `JoinsGivenUp` | any | joins `Unanswered` |
//! | `an_echo_is_the_best_proof` | `Echoed` | any | `Echo`, echoes `Seen`, proof counters 0, keeping `Assumed` |
//! | `an_ack_does_not_replace_echo_as_proof` | `Acknowledged` | `Echo` | `Echo` |
//! | `an_ack_is_proof_when_no_echo_arrives` | `Acknowledged` | any but `Echo` | `Ack`, proof counters 0 |
//! | `proof_written_is_used_when_configured` | `WrittenByChoice` | `Unknown` | `Written` |
//! | `a_connection_without_proof_is_counted` | `NothingConfirmed` | `Unknown`, joins not `Unanswered` | 1 more link without proof |
//! | `silence_with_unanswered_joins_counts_an_unanswered_join` | `NothingConfirmed` | `Unknown`, joins `Unanswered`, below the limit | also 1 more join unanswered |
//! | `silence_on_every_connection_falls_back_to_proof_written` | `NothingConfirmed` | `Unknown`, joins `Unanswered`, at both limits | `Written` |
//! | `silence_after_a_proof_changes_nothing` | `NothingConfirmed` | `Echo`, `Ack`, `Asked`, `Written` | unchanged |
//! | `entries_found_stored_are_counted_once_per_connection` | `FoundStored` | at least 1 link without proof, this link not counted yet | 1 more link found stored |
//! | `reordered_entries_mark_the_order_as_changed` | `Reordered` | order `Kept`, `Changed` | order `Changed`, 0 failed probes |
//! | `a_swap_after_a_probe_ends_batches_for_good` | `Reordered` | order `Probed`, `Unreliable` | order `Unreliable` |
//! | `a_refusal_without_a_name_ends_batches` | `RefusedUnnamed` | order `Kept`, `Probed` | order `Changed`, 0 failed probes |
//! | `a_refusal_without_a_name_changes_nothing_one_at_a_time` | `RefusedUnnamed` | order `Changed`, `Unreliable` | unchanged |
//! | `a_probe_in_order_allows_small_batches` | `ProbeInOrder` | order `Changed` | order `Probed` |
//! | `a_failed_probe_postpones_the_next` | `ProbeFailed` | order `Changed` | 1 more failed probe |
//! | `a_probe_proves_nothing_in_other_states` | `ProbeInOrder` | order `Kept`, `Probed`, `Unreliable` | unchanged |
//! | `a_failed_probe_proves_nothing_in_other_states` | `ProbeFailed` | order `Kept`, `Probed`, `Unreliable` | unchanged |
//! | `links_that_disagree_reach_several_servers` | `LinksDisagree` | any | workers `Several` |
//! | `an_empty_new_session_means_that_the_server_keeps_nothing` | `NewSessionEmpty` | keeping `Assumed` | keeping `Nothing` |
//! | `a_second_empty_session_is_no_accident` | `NewSessionEmpty` | keeping `Nothing`, `NothingAgain` | keeping `NothingAgain` |
use crate::sink::Proof;

/// After this many links with a session and without a proof, the server is assumed to give none.
const WITHOUT_PROOF_LINKS: u32 = 3;

/// After this many consecutive unanswered joins, the server is assumed not to support the event, or
/// not to acknowledge events.
const UNANSWERED_JOINS: u32 = 3;

/// How the server confirms entries on this connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Confirmation {
    #[default]
    Unknown,
    Echo,
    Ack,
    Asked,
    Written,
}

/// Whether the server answers joins on this connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Joins {
    /// The server is assumed to answer, but has shown nothing yet.
    #[default]
    Assumed,
    /// The server has shown what it stores.
    Shows,
    /// The server does not answer, or does not show what it stores.
    Unanswered,
}

/// Whether the server preserves the order of entries that are in flight together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Kept,
    /// The server reordered entries, or refused one of several without naming it: entries are sent
    /// one at a time. Counts the probes since then that failed.
    Changed { failed_probes: u32 },
    /// The server kept the order of a probe afterwards: entries are sent in small batches.
    Probed,
    /// The server reordered entries although a probe was in order: entries are sent one at a time,
    /// and it is not probed again.
    Unreliable,
}

/// Whether all connections reach the same server process, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Workers {
    #[default]
    One,
    /// Several processes behind one address, each with separate sessions: only the publishing
    /// connection can be asked about them.
    Several,
}

/// Whether the server stores what it acknowledges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Keeping {
    #[default]
    Assumed,
    /// The server acknowledged the first entry of a new session and stored nothing.
    Nothing,
    /// The server did so with several new sessions in a row.
    NothingAgain,
}

/// Whether the server has ever echoed one of our entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Echoes {
    #[default]
    NotSeen,
    Seen,
}

/// Counts connections on which entries without proof turned out to be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FoundStored {
    links: u32,
    is_this_one_counted: bool,
}

/// The state of the model: everything learned about a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerCapability {
    confirmation: Confirmation,
    joins: Joins,
    order: Order,
    workers: Workers,
    keeping: Keeping,
    echoes: Echoes,
    found_stored: FoundStored,
    /// Consecutive connections on which the server assigned a session and confirmed nothing.
    links_without_proof: u32,
    /// Consecutive joins that the server did not answer.
    joins_unanswered: u32,
}

/// An observation: something that the server did, or did not do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// A connection was opened, or its session had to be replaced.
    Connected,
    /// The server showed what it stores for a joined session.
    SessionShown,
    /// The server answered a join, possibly with an acknowledgement only.
    JoinAnswered,
    /// The server did not answer a join, but may answer the next one.
    JoinTimedOut,
    /// The server did not answer a join, and no answer is expected on this connection.
    JoinsGivenUp,
    /// The server echoed one of our entries.
    Echoed,
    /// The server acknowledged entries.
    Acknowledged,
    /// Entries were written, and `delivery.proof` asks for no more.
    WrittenByChoice,
    /// The server neither echoed nor acknowledged entries in time.
    NothingConfirmed,
    /// Entries without proof from an earlier connection turned out to be stored.
    FoundStored,
    /// Echoes arrived in a different order.
    Reordered,
    /// The server refused one of several entries without naming it.
    RefusedUnnamed,
    /// All entries of a probe were echoed in order.
    ProbeInOrder,
    /// Entries of a probe were echoed in a different order, or not at all.
    ProbeFailed,
    /// A second connection and the publishing one got different answers to the same join.
    LinksDisagree,
    /// The server acknowledged the first entry of a new session, and the session is empty.
    NewSessionEmpty,
}

impl ServerCapability {
    /// Updates the state with evidence; each case is a row of the table.
    pub(super) fn observe(&mut self, evidence: Evidence) {
        match evidence {
            Evidence::Connected => {
                self.confirmation = Confirmation::Unknown;
                self.joins = Joins::Assumed;
                self.found_stored.is_this_one_counted = false;
            }
            Evidence::SessionShown => {
                self.joins = Joins::Shows;
                if self.keeping == Keeping::NothingAgain {
                    self.keeping = Keeping::Nothing;
                }
                if self.confirmation == Confirmation::Unknown
                    && self.found_stored.links + 1 >= WITHOUT_PROOF_LINKS
                {
                    self.confirmation = Confirmation::Asked;
                    self.links_without_proof = 0;
                }
            }
            Evidence::JoinAnswered => self.joins_unanswered = 0,
            Evidence::JoinTimedOut => self.joins_unanswered += 1,
            Evidence::JoinsGivenUp => self.joins = Joins::Unanswered,
            Evidence::Echoed => {
                self.confirmation = Confirmation::Echo;
                self.echoes = Echoes::Seen;
                self.keeping = Keeping::Assumed;
                self.found_stored.links = 0;
                self.links_without_proof = 0;
            }
            Evidence::Acknowledged => {
                if self.confirmation != Confirmation::Echo {
                    self.confirmation = Confirmation::Ack;
                }
                self.found_stored.links = 0;
                self.links_without_proof = 0;
            }
            Evidence::WrittenByChoice => self.confirmation = Confirmation::Written,
            Evidence::NothingConfirmed => self.nothing_confirmed(),
            Evidence::FoundStored => {
                if self.links_without_proof > 0 && !self.found_stored.is_this_one_counted {
                    self.found_stored.links += 1;
                }
                self.found_stored.is_this_one_counted = true;
            }
            Evidence::Reordered => {
                self.order = match self.order {
                    Order::Kept | Order::Changed { .. } => Order::Changed { failed_probes: 0 },
                    Order::Probed | Order::Unreliable => Order::Unreliable,
                };
            }
            Evidence::RefusedUnnamed => {
                if let Order::Kept | Order::Probed = self.order {
                    self.order = Order::Changed { failed_probes: 0 };
                }
            }
            Evidence::ProbeInOrder => {
                if let Order::Changed { .. } = self.order {
                    self.order = Order::Probed;
                }
            }
            Evidence::ProbeFailed => {
                if let Order::Changed { failed_probes } = &mut self.order {
                    *failed_probes = failed_probes.saturating_add(1);
                }
            }
            Evidence::LinksDisagree => self.workers = Workers::Several,
            Evidence::NewSessionEmpty => {
                self.keeping = match self.keeping {
                    Keeping::Assumed => Keeping::Nothing,
                    Keeping::Nothing | Keeping::NothingAgain => Keeping::NothingAgain,
                };
            }
        }
    }

    /// Handles a publication without any confirmation. Silence from a server that answers joins
    /// proves nothing. If it never answers a join, the pending acknowledgement of the join may have
    /// blocked those of entries.
    fn nothing_confirmed(&mut self) {
        if self.confirmation != Confirmation::Unknown {
            return;
        }
        self.links_without_proof += 1;
        if self.joins != Joins::Unanswered {
            return;
        }
        if !self.has_no_joins() {
            self.joins_unanswered += 1;
        } else if self.links_without_proof >= WITHOUT_PROOF_LINKS {
            self.confirmation = Confirmation::Written;
        }
    }

    /// How entries are confirmed; `None` until determined.
    pub(super) fn proof(&self) -> Option<Proof> {
        match self.confirmation {
            Confirmation::Unknown => None,
            Confirmation::Echo => Some(Proof::Echo),
            Confirmation::Ack | Confirmation::Asked => Some(Proof::Ack),
            Confirmation::Written => Some(Proof::Written),
        }
    }

    /// The proof that a publication waits for; `None` if `delivery.proof` decides.
    pub(super) fn awaited(&self) -> Option<Proof> {
        match self.confirmation {
            Confirmation::Asked => Some(Proof::Written),
            _ => self.proof(),
        }
    }

    /// Whether the server can be queried for what it stores.
    pub(super) fn can_be_asked(&self) -> bool {
        self.joins != Joins::Unanswered
    }

    /// Whether the server has shown what it stores on this connection.
    pub(super) fn has_shown(&self) -> bool {
        self.joins == Joins::Shows
    }

    /// Whether [`UNANSWERED_JOINS`] consecutive joins went unanswered: the server has no such
    /// event, or never acknowledges it.
    pub(super) fn has_no_joins(&self) -> bool {
        self.joins_unanswered >= UNANSWERED_JOINS
    }

    /// Whether the server ever echoed one of our entries; if so, a missing echo means that the
    /// entry is not stored.
    pub(super) fn has_echoed(&self) -> bool {
        self.echoes == Echoes::Seen
    }

    /// Whether entries must be in flight one at a time.
    pub(super) fn is_one_at_a_time(&self) -> bool {
        matches!(self.order, Order::Changed { .. } | Order::Unreliable)
    }

    /// Whether batches must be no larger than those of the probe that the server passed.
    pub(super) fn is_probed(&self) -> bool {
        self.order == Order::Probed
    }

    /// How many probes of the order failed; `None` if the server is not to be probed.
    pub(super) fn failed_probes(&self) -> Option<u32> {
        match self.order {
            Order::Changed { failed_probes } => Some(failed_probes),
            Order::Kept | Order::Probed | Order::Unreliable => None,
        }
    }

    /// Whether connections reach different server processes.
    pub(super) fn has_several_workers(&self) -> bool {
        self.workers == Workers::Several
    }

    /// Whether the server stored nothing of a new session. Several entries are then sent to
    /// determine the proof, because the first one alone may have been refused.
    pub(super) fn keeps_nothing(&self) -> bool {
        self.keeping != Keeping::Assumed
    }

    /// Whether the server stored nothing of several new sessions.
    pub(super) fn keeps_nothing_again(&self) -> bool {
        self.keeping == Keeping::NothingAgain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One unit test for each row of the table.
    macro_rules! rows {
        ($($row:ident: $before:expr, $evidence:ident => $after:expr;)*) => {
            $(#[test]
            fn $row() {
                for (before, after) in std::iter::zip($before, $after) {
                    let mut capability: ServerCapability = before;
                    capability.observe(Evidence::$evidence);
                    assert_eq!(capability, after, "before: {before:?}");
                }
            })*
        };
    }

    const NEW: ServerCapability = ServerCapability {
        confirmation: Confirmation::Unknown,
        joins: Joins::Assumed,
        order: Order::Kept,
        workers: Workers::One,
        keeping: Keeping::Assumed,
        echoes: Echoes::NotSeen,
        found_stored: FoundStored { links: 0, is_this_one_counted: false },
        links_without_proof: 0,
        joins_unanswered: 0,
    };

    const fn is(confirmation: Confirmation) -> ServerCapability {
        ServerCapability { confirmation, ..NEW }
    }

    const fn joins(joins: Joins) -> ServerCapability {
        ServerCapability { joins, ..NEW }
    }

    const CHANGED: Order = Order::Changed { failed_probes: 0 };

    const fn order(order: Order) -> ServerCapability {
        ServerCapability { order, ..NEW }
    }

    const fn keeping(keeping: Keeping) -> ServerCapability {
        ServerCapability { keeping, ..NEW }
    }

    const fn found_stored(links: u32, is_this_one_counted: bool) -> FoundStored {
        FoundStored { links, is_this_one_counted }
    }

    /// A state in which every field differs from its default.
    const EXPERIENCED: ServerCapability = ServerCapability {
        confirmation: Confirmation::Ack,
        joins: Joins::Shows,
        order: CHANGED,
        workers: Workers::Several,
        keeping: Keeping::Nothing,
        echoes: Echoes::Seen,
        found_stored: found_stored(2, true),
        links_without_proof: 3,
        joins_unanswered: 1,
    };

    const ALL: [Confirmation; 5] = [
        Confirmation::Unknown,
        Confirmation::Echo,
        Confirmation::Ack,
        Confirmation::Asked,
        Confirmation::Written,
    ];

    rows! {
        a_new_connection_resets_the_confirmation_state:
            [EXPERIENCED], Connected => [ServerCapability {
                confirmation: Confirmation::Unknown,
                joins: Joins::Assumed,
                found_stored: found_stored(2, false),
                ..EXPERIENCED
            }];
        a_shown_session_means_that_joins_are_answered:
            [NEW, joins(Joins::Unanswered)],
            SessionShown => [joins(Joins::Shows), joins(Joins::Shows)];
        a_server_that_shows_entries_keeps_some:
            [keeping(Keeping::NothingAgain)],
            SessionShown => [ServerCapability { keeping: Keeping::Nothing, ..joins(Joins::Shows) }];
        a_server_without_other_proof_is_verified_by_joins:
            [
                ServerCapability {
                    found_stored: found_stored(2, false),
                    links_without_proof: 2,
                    ..NEW
                },
                ServerCapability { found_stored: found_stored(1, false), ..NEW },
                ServerCapability { found_stored: found_stored(2, false), ..is(Confirmation::Ack) },
            ],
            SessionShown => [
                ServerCapability {
                    confirmation: Confirmation::Asked,
                    found_stored: found_stored(2, false),
                    ..joins(Joins::Shows)
                },
                ServerCapability { found_stored: found_stored(1, false), ..joins(Joins::Shows) },
                ServerCapability {
                    confirmation: Confirmation::Ack,
                    found_stored: found_stored(2, false),
                    ..joins(Joins::Shows)
                },
            ];
        a_join_answer_resets_the_count_of_unanswered_joins:
            [ServerCapability { joins_unanswered: 2, ..NEW }], JoinAnswered => [NEW];
        an_unanswered_join_is_counted:
            [NEW], JoinTimedOut => [ServerCapability { joins_unanswered: 1, ..NEW }];
        giving_up_on_joins_marks_them_as_unanswered:
            [NEW, joins(Joins::Shows)],
            JoinsGivenUp => [joins(Joins::Unanswered), joins(Joins::Unanswered)];
        an_echo_is_the_best_proof:
            [EXPERIENCED], Echoed => [ServerCapability {
                confirmation: Confirmation::Echo,
                keeping: Keeping::Assumed,
                found_stored: found_stored(0, true),
                links_without_proof: 0,
                ..EXPERIENCED
            }];
        an_ack_does_not_replace_echo_as_proof:
            [is(Confirmation::Echo)], Acknowledged => [is(Confirmation::Echo)];
        an_ack_is_proof_when_no_echo_arrives:
            [
                ServerCapability {
                    found_stored: found_stored(1, true),
                    links_without_proof: 2,
                    ..NEW
                },
                is(Confirmation::Ack),
                is(Confirmation::Asked),
                is(Confirmation::Written),
            ],
            Acknowledged => [
                ServerCapability {
                    found_stored: found_stored(0, true),
                    ..is(Confirmation::Ack)
                },
                is(Confirmation::Ack),
                is(Confirmation::Ack),
                is(Confirmation::Ack),
            ];
        proof_written_is_used_when_configured:
            [NEW], WrittenByChoice => [is(Confirmation::Written)];
        a_connection_without_proof_is_counted:
            [NEW, joins(Joins::Shows)],
            NothingConfirmed => [
                ServerCapability { links_without_proof: 1, ..NEW },
                ServerCapability { links_without_proof: 1, ..joins(Joins::Shows) },
            ];
        silence_with_unanswered_joins_counts_an_unanswered_join:
            [joins(Joins::Unanswered)],
            NothingConfirmed => [ServerCapability {
                links_without_proof: 1,
                joins_unanswered: 1,
                ..joins(Joins::Unanswered)
            }];
        silence_on_every_connection_falls_back_to_proof_written:
            [ServerCapability {
                links_without_proof: WITHOUT_PROOF_LINKS - 1,
                joins_unanswered: UNANSWERED_JOINS,
                ..joins(Joins::Unanswered)
            }],
            NothingConfirmed => [ServerCapability {
                confirmation: Confirmation::Written,
                links_without_proof: WITHOUT_PROOF_LINKS,
                joins_unanswered: UNANSWERED_JOINS,
                ..joins(Joins::Unanswered)
            }];
        silence_after_a_proof_changes_nothing:
            ALL[1..].iter().map(|confirmation| is(*confirmation)),
            NothingConfirmed => ALL[1..].iter().map(|confirmation| is(*confirmation));
        entries_found_stored_are_counted_once_per_connection:
            [
                ServerCapability { links_without_proof: 1, ..NEW },
                ServerCapability {
                    links_without_proof: 1,
                    found_stored: found_stored(1, true),
                    ..NEW
                },
                NEW,
            ],
            FoundStored => [
                ServerCapability {
                    links_without_proof: 1,
                    found_stored: found_stored(1, true),
                    ..NEW
                },
                ServerCapability {
                    links_without_proof: 1,
                    found_stored: found_stored(1, true),
                    ..NEW
                },
                ServerCapability { found_stored: found_stored(0, true), ..NEW },
            ];
        reordered_entries_mark_the_order_as_changed:
            [order(Order::Kept), order(Order::Changed { failed_probes: 3 })],
            Reordered => [order(CHANGED), order(CHANGED)];
        a_swap_after_a_probe_ends_batches_for_good:
            [order(Order::Probed), order(Order::Unreliable)],
            Reordered => [order(Order::Unreliable), order(Order::Unreliable)];
        a_refusal_without_a_name_ends_batches:
            [order(Order::Kept), order(Order::Probed)],
            RefusedUnnamed => [order(CHANGED), order(CHANGED)];
        a_refusal_without_a_name_changes_nothing_one_at_a_time:
            [order(Order::Changed { failed_probes: 3 }), order(Order::Unreliable)],
            RefusedUnnamed => [
                order(Order::Changed { failed_probes: 3 }),
                order(Order::Unreliable),
            ];
        a_probe_in_order_allows_small_batches:
            [order(Order::Changed { failed_probes: 3 })],
            ProbeInOrder => [order(Order::Probed)];
        a_failed_probe_postpones_the_next:
            [order(CHANGED)], ProbeFailed => [order(Order::Changed { failed_probes: 1 })];
        a_probe_proves_nothing_in_other_states:
            [order(Order::Kept), order(Order::Probed), order(Order::Unreliable)],
            ProbeInOrder => [order(Order::Kept), order(Order::Probed), order(Order::Unreliable)];
        a_failed_probe_proves_nothing_in_other_states:
            [order(Order::Kept), order(Order::Probed), order(Order::Unreliable)],
            ProbeFailed => [order(Order::Kept), order(Order::Probed), order(Order::Unreliable)];
        links_that_disagree_reach_several_servers:
            [NEW], LinksDisagree => [ServerCapability { workers: Workers::Several, ..NEW }];
        an_empty_new_session_means_that_the_server_keeps_nothing:
            [NEW], NewSessionEmpty => [keeping(Keeping::Nothing)];
        a_second_empty_session_is_no_accident:
            [keeping(Keeping::Nothing), keeping(Keeping::NothingAgain)],
            NewSessionEmpty => [keeping(Keeping::NothingAgain), keeping(Keeping::NothingAgain)];
    }

    #[test]
    fn each_confirmation_state_awaits_its_own_proof() {
        let awaited = ALL.map(|confirmation| {
            let capability = is(confirmation);
            (capability.proof(), capability.awaited())
        });
        assert_eq!(
            awaited,
            [
                (None, None),
                (Some(Proof::Echo), Some(Proof::Echo)),
                (Some(Proof::Ack), Some(Proof::Ack)),
                (Some(Proof::Ack), Some(Proof::Written)),
                (Some(Proof::Written), Some(Proof::Written)),
            ]
        );
    }
}
