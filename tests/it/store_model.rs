//! The store against a model, a sorted map: after any sequence of operations both hold the same
//! records, across restarts as well.

use std::collections::BTreeMap;

use pitwire::entry::Seq;
use pitwire::queue::storage::{KeyValue, Options, SegmentStore, Storage, Usage};
use pitwire::queue::{FIRST, Limit};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Append {
        count: usize,
        len: usize,
    },
    Release {
        share: u8,
    },
    Read {
        share: u8,
        entries: usize,
        bytes: usize,
    },
    Put {
        key: u8,
        value: Vec<u8>,
    },
    /// Keeps only every `every`-th record of one or two neighbouring segments.
    Thin {
        share: u8,
        segments: usize,
        every: usize,
    },
    Flush,
    Seal,
    Maintain,
    /// Drops the store and opens it again, in the same boot or after a reboot.
    Restart {
        same_boot: bool,
    },
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1_usize..60, 0_usize..3000).prop_map(|(count, len)| Op::Append { count, len }),
        1 => (1_usize..3, 90_000_usize..250_000).prop_map(|(count, len)| Op::Append { count, len }),
        3 => any::<u8>().prop_map(|share| Op::Release { share }),
        4 => (any::<u8>(), 1_usize..100, 1_usize..20_000)
            .prop_map(|(share, entries, bytes)| Op::Read { share, entries, bytes }),
        1 => (0_u8..3, proptest::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(key, value)| Op::Put { key, value }),
        2 => (any::<u8>(), 1_usize..3, 1_usize..60)
            .prop_map(|(share, segments, every)| Op::Thin { share, segments, every }),
        2 => Just(Op::Flush),
        1 => Just(Op::Seal),
        3 => Just(Op::Maintain),
        1 => any::<bool>().prop_map(|same_boot| Op::Restart { same_boot }),
        1 => Just(Op::Reopen),
    ]
}

struct Model {
    records: BTreeMap<u64, Vec<u8>>,
    head: u64,
    tail: u64,
    appended: u64,
    metadata: Option<Vec<u8>>,
    facts: BTreeMap<u8, Vec<u8>>,
}

fn check(ops: &[Op]) {
    let folder = tempfile::tempdir().unwrap();
    let mut boot = 0;
    // With a segment size of 0 each maintenance seals the active segment, so there are many.
    let open = |boot: u32| {
        let roomy = Options::new(1_000_000, 64 << 20);
        let options = Options { segment_bytes: 0, boot: format!("boot-{boot}"), ..roomy };
        SegmentStore::open(folder.path(), options).unwrap()
    };
    let mut store = open(boot);
    let mut model = Model {
        records: BTreeMap::new(),
        head: FIRST.0,
        tail: FIRST.0,
        appended: 0,
        metadata: None,
        facts: BTreeMap::new(),
    };
    for op in ops {
        match op {
            Op::Append { count, len } => {
                for _ in 0..*count {
                    let record: Vec<u8> =
                        (0..*len).map(|i| (model.tail as usize * 31 + i * i) as u8).collect();
                    let seq = store.append(&record).unwrap();
                    assert_eq!(seq.0, model.tail);
                    model.records.insert(seq.0, record);
                    model.tail += 1;
                    model.appended += 1;
                }
            }
            Op::Release { share } => {
                let head = at(&model, *share);
                let metadata = vec![*share; 20];
                store.truncate(Seq(head), &metadata).unwrap();
                model.records = model.records.split_off(&head);
                model.head = model.head.max(head);
                model.metadata = Some(metadata);
            }
            Op::Read { share, entries, bytes } => {
                let from = at(&model, *share);
                let limit = Limit { entries: *entries, bytes: *bytes };
                let read = store.read(Seq(from), limit).unwrap();
                let expected: Vec<_> =
                    model.records.range(from..).take(read.len().max(1)).collect();
                let found: Vec<_> = read.iter().map(|(seq, record)| (&seq.0, record)).collect();
                assert_eq!(found, expected, "from {from}");
                assert!(read.len() <= *entries);
                let size: usize = read.iter().map(|(_, record)| record.len()).sum();
                assert!(size <= *bytes || read.len() == 1);
            }
            Op::Put { key, value } => {
                store.put(&format!("key-{key}"), value).unwrap();
                model.facts.insert(*key, value.clone());
            }
            Op::Thin { share, segments, every } => {
                let found = store.sealed_segments();
                if found.is_empty() {
                    continue;
                }
                let first = (found.len() - 1) * usize::from(*share) / 255;
                let last = (first + segments - 1).min(found.len() - 1);
                let inside = found[first].first.0..=found[last].last.0;
                let mut number = 0;
                model.records.retain(|seq, _| {
                    number += usize::from(inside.contains(seq));
                    !inside.contains(seq) || number % every == 0
                });
                let left = model.records.range(inside).map(|(seq, r)| (Seq(*seq), r.clone()));
                let metadata = vec![*share; 30];
                let level = found[first].level + 1;
                let (first, last) = (found[first].first, found[last].last);
                let left: Vec<_> = left.collect();
                let is_gone = left.is_empty();
                store.replace(first, last, level, left, &metadata).unwrap();
                model.metadata = Some(metadata);
                let segment =
                    store.sealed_segments().into_iter().find(|segment| segment.last == last);
                assert_eq!(segment.map(|segment| segment.level), (!is_gone).then_some(level));
            }
            Op::Seal => {
                store.seal().unwrap();
                let last = store.sealed_segments().last().map(|segment| segment.last.0);
                assert!(last >= model.records.keys().next_back().copied(), "{last:?}");
            }
            Op::Flush => store.flush().unwrap(),
            Op::Maintain => store.maintain().unwrap(),
            Op::Restart { same_boot } => {
                drop(store);
                boot += u32::from(!same_boot);
                store = open(boot);
            }
            Op::Reopen => {
                store.reopen().unwrap();
                assert!(store.tail().0 >= model.tail, "a position would be assigned again");
                model.tail = store.tail().0;
            }
        }
        compare(&store, &model, op);
    }
    drop(store);
    let mut store = open(boot);
    let (mut all, mut from) = (BTreeMap::new(), Seq(0));
    loop {
        let read = store.read(from, Limit { entries: 50, bytes: 1 << 20 }).unwrap();
        let Some((last, _)) = read.last() else { break };
        from = Seq(last.0 + 1);
        all.extend(read.into_iter().map(|(seq, record)| (seq.0, record)));
    }
    assert_eq!(all, model.records);
}

/// A position between head and tail.
fn at(model: &Model, share: u8) -> u64 {
    model.head + (model.tail - model.head) * u64::from(share) / 255
}

fn compare(store: &SegmentStore, model: &Model, op: &Op) {
    let bytes = model.records.values().map(|record| record.len() as u64).sum();
    let held = Usage { records: model.records.len() as u64, bytes };
    assert_eq!(store.usage(), held, "after {op:?}");
    assert_eq!(store.appended(), model.appended, "after {op:?}");
    assert_eq!(store.lost(), 0, "after {op:?}");
    assert_eq!(store.tail().0, model.tail, "after {op:?}");
    assert_eq!(store.metadata(), model.metadata, "after {op:?}");
    for key in 0..3 {
        let fact = store.get(&format!("key-{key}")).unwrap();
        assert_eq!(fact.as_ref(), model.facts.get(&key), "after {op:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn the_store_matches_its_model(ops in proptest::collection::vec(op(), 1..60)) {
        check(&ops);
    }
}

#[test]
fn many_segments_are_read_and_truncated_as_one_sequence() {
    let ops: Vec<Op> = (0..40_u32)
        .flat_map(|i| {
            [
                Op::Append { count: 450, len: 100 },
                Op::Release { share: (i * 37 % 256) as u8 },
                Op::Read { share: (i * 91 % 256) as u8, entries: 64, bytes: 1 << 16 },
            ]
        })
        .collect();
    check(&ops);
}

/// Otherwise a power cut could lose the release record, and the segment would be reported missing.
#[test]
fn a_segment_stays_until_its_truncation_is_durable() {
    let place = tempfile::tempdir().unwrap();
    let options = Options::new(1_000_000, 64 << 20);
    let mut store = SegmentStore::open(place.path(), options).unwrap();
    for _ in 0..20 {
        store.append(b"record").unwrap();
    }
    store.seal().unwrap();
    let segments = || {
        let names = std::fs::read_dir(place.path()).unwrap().map(|item| item.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("q-")).count()
    };
    store.truncate(Seq(21), b"metadata").unwrap();
    store.maintain().unwrap();
    assert_eq!(segments(), 1);
    store.flush().unwrap();
    store.maintain().unwrap();
    assert_eq!(segments(), 0);
}
