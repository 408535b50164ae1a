//! How far values are apart.

use restage_stage::catalogue::Tolerance;
use serde::Serialize;
use serde_json::{Map, Number, Value};

/// How far the values of an array or of attributes are apart, all in all.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// How many differ. A number that is none equals another that is none.
    pub(crate) differing: u64,
    /// Of so many.
    pub(crate) of: u64,
    /// How many differ by more than the tolerance.
    pub(crate) beyond: u64,
    /// The largest distance, of those that have one.
    pub(crate) absolute: f64,
    /// The largest distance as a part of the larger number.
    pub(crate) relative: f64,
    /// How many differ and have no distance: text, truth, a number and one that is none or infinite.
    pub(crate) without_distance: u64,
    /// The name of one that differs, where they have names; one beyond the tolerance if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
}

/// Two values.
#[derive(Clone, Copy)]
pub(super) enum Pair {
    Same,
    /// Numbers that are so far apart, the larger one so large.
    Apart(f64, f64),
    /// They differ, and there is no distance between them.
    Other,
}

impl Pair {
    pub(super) fn of_floats(then: f64, now: f64) -> Self {
        if then == now || (then.is_nan() && now.is_nan()) {
            return Self::Same;
        }
        let (apart, larger) = ((then - now).abs(), then.abs().max(now.abs()));
        if apart.is_finite() { Self::Apart(apart, larger) } else { Self::Other }
    }

    pub(super) fn of_integers(then: i128, now: i128) -> Self {
        if then == now {
            return Self::Same;
        }
        let larger = then.unsigned_abs().max(now.unsigned_abs());
        Self::Apart(then.abs_diff(now) as f64, larger as f64)
    }

    pub(super) fn of_others(are_same: bool) -> Self {
        if are_same { Self::Same } else { Self::Other }
    }
}

impl Spread {
    /// Whether the pair is beyond the tolerance.
    pub(super) fn add(&mut self, pair: Pair, tolerance: Tolerance) -> bool {
        self.of += 1;
        let beyond = match pair {
            Pair::Same => return false,
            Pair::Apart(apart, larger) => {
                self.absolute = self.absolute.max(apart);
                self.relative = self.relative.max(apart / larger);
                !tolerance.allows(apart, larger)
            }
            Pair::Other => {
                self.without_distance += 1;
                true
            }
        };
        self.differing += 1;
        self.beyond += u64::from(beyond);
        beyond
    }

    fn add_named(&mut self, at: &str, pair: Pair, tolerance: Tolerance) {
        let (differing, beyond) = (self.differing, self.beyond);
        self.add(pair, tolerance);
        if (differing == 0 && self.differing > 0) || (beyond == 0 && self.beyond > 0) {
            self.at = Some(at.to_owned());
        }
    }
}

/// Attributes, value by value. Integers have no tolerance.
pub(super) fn of_maps(
    then: &Map<String, Value>,
    now: &Map<String, Value>,
    at: &str,
    tolerance: Tolerance,
    spread: &mut Spread,
) {
    let new = now.iter().filter(|(name, _)| !then.contains_key(*name));
    for name in then.keys().chain(new.map(|(name, _)| name)) {
        let place = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match (then.get(name), now.get(name)) {
            (Some(was), Some(is)) => of_values(was, is, &place, tolerance, spread),
            _ => spread.add_named(&place, Pair::Other, tolerance),
        }
    }
}

fn of_values(then: &Value, now: &Value, at: &str, tolerance: Tolerance, spread: &mut Spread) {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => of_maps(then, now, at, tolerance, spread),
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            for (index, (was, is)) in then.iter().zip(now).enumerate() {
                of_values(was, is, &format!("{at}[{index}]"), tolerance, spread);
            }
        }
        (Value::Number(then), Value::Number(now)) => match (whole(then), whole(now)) {
            (Some(then), Some(now)) => {
                spread.add_named(at, Pair::of_integers(then, now), Tolerance::default());
            }
            _ => {
                let number = |number: &Number| number.as_f64().unwrap_or(f64::NAN);
                spread.add_named(at, Pair::of_floats(number(then), number(now)), tolerance);
            }
        },
        _ => spread.add_named(at, Pair::of_others(then == now), tolerance),
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { differing, of, beyond, absolute, relative, without_distance, at } = self;
        write!(f, "{differing} of {of} differ{}", if *differing == 1 { "s" } else { "" })?;
        if differing > without_distance {
            write!(f, ", by at most {absolute:.2e} (relative {relative:.2e})")?;
        }
        if *without_distance > 0 && differing > without_distance {
            write!(f, ", {without_distance} by no finite number")?;
        }
        if *beyond > 0 && beyond < differing {
            write!(f, ", {beyond} by more than the tolerance")?;
        }
        let which = if *differing == 1 { "it is" } else { "e.g." };
        at.as_ref().map_or(Ok(()), |at| write!(f, "; {which} {at}"))
    }
}
