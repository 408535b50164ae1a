use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;
use zarrs::{
    array::{ArrayBuilder, DataType, Element, FillValue, data_type},
    filesystem::FilesystemStore,
    group::GroupBuilder,
};

use super::*;

/// A folder with a group, in which things are put.
struct Made(TempDir);

impl Made {
    fn new(attributes: &Value) -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        let group =
            GroupBuilder::new().attributes(attributes.as_object().unwrap().clone()).build(made.store(), "/");
        group.unwrap().store_metadata().unwrap();
        made
    }

    fn store(&self) -> Arc<FilesystemStore> {
        Arc::new(FilesystemStore::new(self.0.path()).unwrap())
    }

    /// An array in chunks of `chunk`, those in shards of twice as much if it is sharded.
    fn array<T: Element>(
        self,
        of: (DataType, FillValue),
        shape: &[u64],
        values: &[T],
        sharded: bool,
    ) -> Self {
        let chunk = vec![2; shape.len()];
        let mut builder = ArrayBuilder::new(shape.to_vec(), chunk.clone(), of.0, of.1);
        if sharded {
            builder.subchunk_shape(vec![1; shape.len()]);
        }
        let array = builder.build(self.store(), "/x").unwrap();
        array.store_metadata().unwrap();
        array.store_array_subset(&array.subset_all(), values).unwrap();
        self
    }

    fn floats(values: &[f32]) -> Self {
        Self::new(&json!({})).array(f32s(), &[values.len() as u64], values, false)
    }

    fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.0.path().join(name), text).unwrap();
        self
    }
}

fn f32s() -> (DataType, FillValue) {
    (data_type::float32(), FillValue::from(0.0f32))
}

fn compared(then: &Made, now: &Made, tolerance: Tolerance) -> Vec<Finding> {
    compare(then.0.path(), now.0.path(), tolerance).unwrap()
}

/// What is found where nothing is tolerated, as it is told.
fn told(then: &Made, now: &Made) -> Vec<String> {
    let findings = compared(then, now, Tolerance::default());
    findings.iter().map(|finding| format!("{:?}: {finding}", finding.verdict)).collect()
}

fn only(findings: Vec<Finding>) -> (Verdict, Spread) {
    match findings.into_iter().next() {
        Some(Finding { verdict, difference: Some(Difference::Values(spread)), .. }) => (verdict, spread),
        other => panic!("{other:?}"),
    }
}

#[test]
fn equal_folders_are_bit_equal_part_by_part() {
    let made = || {
        Made::new(&json!({ "metrics": { "loss": 0.5 } }))
            .array(f32s(), &[3], &[1.0f32, f32::NAN, 0.0], false)
            .file("text", "one")
    };
    assert_eq!(
        told(&made(), &made()),
        [
            "BitEqual: attributes of `/`: the same bytes",
            "BitEqual: file `text`: the same bytes",
            "BitEqual: array `/x`: the same bytes",
        ]
    );
}

#[test]
fn one_ulp_is_within_a_tolerance_and_different_without() {
    let then = Made::floats(&[1.0, 2.0, -4.0]);
    let now = Made::floats(&[1.0, 2.0f32.next_up(), -4.0]);
    let ulp = f64::from(2.0f32.next_up() - 2.0);
    let near = |absolute, relative| only(compared(&then, &now, Tolerance { absolute, relative }));
    let (verdict, spread) = near(0.0, 0.0);
    assert_eq!(verdict, Verdict::Different);
    assert_eq!((spread.differing, spread.of, spread.beyond), (1, 3, 1));
    assert_eq!((spread.absolute, spread.relative), (ulp, ulp / f64::from(2.0f32.next_up())));
    assert_eq!(
        told(&then, &now),
        ["Different: array `/x`: 1 of 3 differs, by at most 2.38e-7 (relative 1.19e-7)"]
    );
    assert_eq!(near(ulp, 0.0).0, Verdict::Within);
    assert_eq!(near(ulp / 2.0, 0.0).0, Verdict::Different);
    assert_eq!(near(0.0, 1e-6).0, Verdict::Within);
    assert_eq!(near(0.0, 1e-8).0, Verdict::Different);
}

#[test]
fn none_equals_none_and_zero_equals_zero_whatever_their_bits() {
    let nan = f32::from_bits(f32::NAN.to_bits() ^ 1);
    let then = Made::floats(&[f32::NAN, 0.0, f32::INFINITY]);
    let now = Made::floats(&[nan, -0.0, f32::INFINITY]);
    assert_eq!(told(&then, &now), ["Within: array `/x`: the same values, stored in other bytes"]);
}

#[test]
fn nothing_is_near_what_is_no_finite_number() {
    let then = Made::floats(&[1.0, f32::NAN, 1.0, 1.0]);
    let now = Made::floats(&[1.5, 1.0, f32::INFINITY, 1.0]);
    let (verdict, spread) = only(compared(&then, &now, Tolerance { absolute: 1e30, relative: 1e30 }));
    assert_eq!(
        (verdict, spread.beyond, spread.without_distance, spread.absolute),
        (Verdict::Different, 2, 2, 0.5)
    );
    assert_eq!(
        spread.to_string(),
        "3 of 4 differ, by at most 5.00e-1 (relative 3.33e-1), 2 by no finite number, 2 by more than the tolerance"
    );
}

#[test]
fn other_shapes_types_and_things_are_different() {
    let text = || (data_type::string(), FillValue::from(""));
    let doubles = || (data_type::float64(), FillValue::from(0.0f64));
    let new = || Made::new(&json!({}));
    let then = Made::floats(&[1.0, 2.0]);
    let first = |now: &Made| told(&then, now).remove(0);
    assert_eq!(first(&Made::floats(&[1.0])), "Different: array `/x`: shape was [2], is [1]");
    let square = new().array(f32s(), &[1, 2], &[1.0f32, 2.0], false);
    assert_eq!(first(&square), "Different: array `/x`: shape was [2], is [1,2]");
    let double = new().array(doubles(), &[2], &[1.0f64, 2.0], false);
    assert_eq!(first(&double), "Different: array `/x`: data_type was \"float32\", is \"float64\"");
    assert_eq!(first(&new()), "Different: array `/x`: was there, is not");
    assert_eq!(first(&new().file("x", "1")), "Different: file `x`: kind was \"array\", is \"file\"");
    assert_eq!(told(&new(), &then), ["Different: array `/x`: was not there, is"]);
    let texts = |values: [&str; 3]| new().array(text(), &[3], &values, false);
    let (verdict, spread) = only(compared(
        &texts(["a", "", "c"]),
        &texts(["a", "b", "c"]),
        Tolerance { absolute: 9.0, relative: 9.0 },
    ));
    assert_eq!((verdict, spread.to_string().as_str()), (Verdict::Different, "1 of 3 differs"));
    assert_eq!(
        told(&new().file("log", "12"), &new().file("log", "1")),
        ["Different: file `log`: other content; was 2 bytes, is 1 bytes"]
    );
    assert_eq!(told(&new().file("log", "12"), &new()), ["Different: file `log`: was there, is not"]);
}

#[test]
fn whole_numbers_have_no_tolerance() {
    let whole = |values: [u64; 2]| {
        Made::new(&json!({})).array((data_type::uint64(), FillValue::from(0u64)), &[2], &values, false)
    };
    let (verdict, spread) =
        only(compared(&whole([1, u64::MAX]), &whole([1, 0]), Tolerance { absolute: 1e30, relative: 1.0 }));
    assert_eq!((verdict, spread.absolute, spread.relative), (Verdict::Different, u64::MAX as f64, 1.0));
}

#[test]
fn how_an_array_is_stored_is_no_difference_in_it() {
    let values: Vec<f32> = (0..35u8).map(f32::from).collect();
    let made = |values: &[f32], sharded| Made::new(&json!({})).array(f32s(), &[5, 7], values, sharded);
    let (plain, sharded) = (made(&values, false), made(&values, true));
    let stored = ["Within: array `/x`: the same values, stored in other bytes"];
    assert_eq!(told(&plain, &sharded), stored);
    assert_eq!(told(&sharded, &plain), stored);
    let mut other = values.clone();
    other[34] += 1.0;
    let (verdict, spread) = only(compared(&plain, &made(&other, true), Tolerance::default()));
    assert_eq!((verdict, spread.differing, spread.of, spread.absolute), (Verdict::Different, 1, 35, 1.0));
}

#[test]
fn an_array_without_an_axis_or_an_element_is_compared_too() {
    let scalar = |value: f32| Made::new(&json!({})).array(f32s(), &[], &[value], false);
    assert_eq!(only(compared(&scalar(1.0), &scalar(3.0), Tolerance::default())).1.absolute, 2.0);
    let empty = |chunk: u64| {
        let made = Made::new(&json!({}));
        let array = ArrayBuilder::new(vec![0, 3], vec![chunk, 3], data_type::float32(), 0.0f32);
        array.build(made.store(), "/x").unwrap().store_metadata().unwrap();
        made
    };
    assert_eq!(told(&empty(1), &empty(2)), ["Within: array `/x`: the same values, stored in other bytes"]);
}

#[test]
fn attributes_are_compared_number_by_number() {
    let then =
        Made::new(&json!({ "metrics": { "loss": 0.5, "ari": null, "seen": 3 }, "classes": ["a", "b"] }));
    let near = Made::new(
        &json!({ "classes": ["a", "b"], "metrics": { "loss": 0.5000001, "ari": null, "seen": 3.0 } }),
    );
    let tolerance = Tolerance { absolute: 1e-6, relative: 0.0 };
    let (verdict, spread) = only(compared(&then, &near, tolerance));
    assert_eq!((verdict, spread.differing, spread.of), (Verdict::Within, 1, 5));
    assert_eq!(
        spread.to_string(),
        "1 of 5 differs, by at most 1.00e-7 (relative 2.00e-7); it is metrics.loss"
    );
    let far = Made::new(&json!({ "metrics": { "loss": 0.5000001, "ari": 0.1, "seen": 4 }, "more": 1 }));
    let (verdict, spread) = only(compared(&then, &far, tolerance));
    assert_eq!((verdict, spread.differing, spread.beyond, spread.of), (Verdict::Different, 5, 4, 5));
    assert_eq!(spread.at.as_deref(), Some("metrics.ari"), "one beyond the tolerance");
}

#[test]
fn what_cannot_be_read_is_different_and_says_why() {
    let then = Made::floats(&[1.0, 2.0]);
    let now = Made::floats(&[1.0, 2.0]);
    fs::write(now.0.path().join("x/c/0"), "torn").unwrap();
    let told = told(&then, &now).remove(0);
    assert!(told.starts_with("Different: array `/x`: other bytes, which cannot be read: "), "{told}");
}
