//! Sweeps of random stores, against what the rules say in other words: what a root reaches stays and all else goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::SystemTime;

use proptest::prelude::*;

use crate::area::Area;
use crate::crash::temp;
use crate::faults::walk;
use crate::gc_tests::{DAY, age_artifact, age_record, is_hit, key, publish, record, sweep_at};
use crate::{Digest, GcOptions, Store};

/// A store that somebody had.
#[derive(Debug, Clone)]
struct Past {
    /// Each artifact's files, and its age in days.
    artifacts: Vec<(BTreeSet<u8>, u32)>,
    /// Each record's artifacts, by number, and its age in days.
    records: Vec<(Vec<usize>, u32)>,
    pins: Vec<usize>,
    asked: Vec<usize>,
    asked_actions: Vec<usize>,
}

fn any_past() -> impl Strategy<Value = Past> {
    let days = || prop::sample::select(vec![0u32, 1, 2, 4, 10, 29, 31, 100]);
    let files = prop::collection::btree_set(0u8..8, 0..4);
    let some = |most: usize| prop::collection::vec(0usize..6, 0..most);
    let artifacts = prop::collection::vec((files, days()), 6);
    let records = prop::collection::vec((some(3), days()), 0..8);
    (artifacts, records, some(2), some(2), some(2)).prop_map(
        |(artifacts, records, pins, asked, asked_actions)| Past {
            artifacts,
            records,
            pins,
            asked,
            asked_actions,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_a_root_reaches_stays_and_all_else_goes(past in any_past()) {
        let temp = temp();
        let store = Store::open(temp.path()).unwrap();
        let now = SystemTime::now();
        // Two may be the same one, of the younger's age.
        let mut ages: BTreeMap<Digest, u32> = BTreeMap::new();
        let digests: Vec<Digest> = past.artifacts.iter().map(|(files, days)| {
            let digest = publish(&store, files);
            let age = ages.entry(digest).or_insert(*days);
            *age = (*age).min(*days);
            digest
        }).collect();
        for (number, (outputs, _)) in past.records.iter().enumerate() {
            record(&store, number, &outputs.iter().map(|n| digests[*n]).collect::<Vec<_>>(), 1);
        }
        let chosen = |numbers: &[usize]| numbers.iter().map(|n| digests[*n]).collect::<BTreeSet<_>>();
        let pinned = chosen(&past.pins);
        store.pin("mine", &pinned).unwrap();
        for (number, (_, days)) in past.records.iter().enumerate() {
            age_record(&store, number, now, *days);
        }
        // The oldest first: files are shared, and are as young as the youngest.
        let mut by_age: Vec<_> = ages.iter().collect();
        by_age.sort_by_key(|(_, days)| std::cmp::Reverse(**days));
        by_age.iter().for_each(|(digest, days)| age_artifact(&store, digest, now, **days));

        let options = GcOptions {
            artifacts: chosen(&past.asked),
            actions: past.asked_actions.iter().map(|n| key(*n)).collect(),
            ..GcOptions::default()
        };
        let named: BTreeSet<Digest> = pinned.union(&options.artifacts).copied().collect();
        let outputs = |number: usize| chosen(&past.records[number].0);
        let record_stays = |number: usize| {
            past.records[number].1 < 30
                || options.actions.contains(&key(number))
                || !outputs(number).is_empty() && outputs(number).is_subset(&named)
        };
        let kept: Vec<usize> = (0..past.records.len()).filter(|n| record_stays(*n)).collect();
        let reached: BTreeSet<Digest> = kept.iter().flat_map(|n| outputs(*n)).chain(named.clone()).collect();
        let artifact_stays = |digest: &Digest| ages[digest] < 3 || reached.contains(digest);

        let (plan, report) = sweep_at(&store, &options, now);
        let goes = ages.keys().filter(|digest| !artifact_stays(digest)).count() as u64;
        let swept = |area| report.swept.get(&area).copied().unwrap_or_default();
        prop_assert_eq!(swept(Area::Artifacts).count, goes);
        prop_assert_eq!(swept(Area::Records).count, (past.records.len() - kept.len()) as u64);
        for number in 0..past.records.len() {
            prop_assert_eq!(is_hit(&store, number), record_stays(number), "record {}", number);
        }
        for digest in ages.keys() {
            prop_assert_eq!(store.layout().artifact(digest).exists(), artifact_stays(digest));
        }
        // No file is left that no artifact has, but for young ones.
        let wanted: BTreeSet<u8> = past.artifacts.iter().zip(&digests)
            .filter(|(_, digest)| artifact_stays(digest)).flat_map(|((files, _), _)| files.clone()).collect();
        let files = walk(&store.layout().files()).iter().filter(|path| path.is_file()).count();
        prop_assert_eq!(files, wanted.len());
        let total = |amounts: &BTreeMap<Area, crate::Amount>| amounts.values().map(|a| a.bytes).sum::<u64>();

        let (again, nothing) = sweep_at(&store, &options, now);
        prop_assert!(again.removals.is_empty() && nothing.swept.is_empty(), "{:?} {:?}", again, nothing);
        prop_assert_eq!(total(&again.kept), total(&plan.kept), "what stays is what was said to stay");

        let before = store.usage().unwrap();
        let later = GcOptions { keep: DAY * 1000, ..options };
        let (last, _) = sweep_at(&store, &later, now + DAY * 4);
        let after = store.usage().unwrap();
        let freed = before.bytes - after.bytes;
        prop_assert_eq!(freed, last.removable.get(&Area::Trash).map_or(0, |trash| trash.bytes));
        let taken: u64 = plan.removals.iter().map(|removal| removal.bytes).sum();
        prop_assert_eq!(freed, taken, "what was said to be set free is");
        let since = (now + DAY * 4).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().to_string();
        for left in fs::read_dir(store.layout().trash()).into_iter().flatten() {
            prop_assert!(left.unwrap().file_name().to_str().unwrap().starts_with(&since));
        }
        for number in &kept {
            prop_assert!(is_hit(&store, *number));
        }
    }
}
