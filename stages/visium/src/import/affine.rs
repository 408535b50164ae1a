//! Maps of the plane, as OME-NGFF writes transformations down.

use serde_json::Value;

/// x' = `0[0]` · (x, y, 1), y' = `0[1]` · (x, y, 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine([[f64; 3]; 2]);

impl Affine {
    pub(super) const IDENTITY: Self = Self([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);

    /// Reads a transformation of elements whose axes are `axes`, unless it says others. `None` if it is none of x and y.
    pub(super) fn parse(value: &Value, axes: &[&str]) -> Option<Self> {
        let names = |side: &str| -> Vec<&str> {
            let listed = value[side]["axes"].as_array();
            listed.map_or_else(
                || axes.to_vec(),
                |listed| listed.iter().filter_map(|axis| axis["name"].as_str()).collect(),
            )
        };
        let (input, output) = (names("input"), names("output"));
        let find = |axes: &[&str], name: &str| axes.iter().position(|axis| *axis == name);
        let (x, y) = (find(&input, "x")?, find(&input, "y")?);
        let number = |list: &Value, at: usize| list[at].as_f64();
        match value["type"].as_str()? {
            "identity" => Some(Self::IDENTITY),
            "scale" => {
                let scale = &value["scale"];
                Some(Self([[number(scale, x)?, 0.0, 0.0], [0.0, number(scale, y)?, 0.0]]))
            }
            "translation" => {
                let by = &value["translation"];
                Some(Self([[1.0, 0.0, number(by, x)?], [0.0, 1.0, number(by, y)?]]))
            }
            "affine" => {
                let row = |name: &str| {
                    let row = &value["affine"][find(&output, name)?];
                    Some([number(row, x)?, number(row, y)?, number(row, input.len())?])
                };
                Some(Self([row("x")?, row("y")?]))
            }
            "sequence" => value["transformations"]
                .as_array()?
                .iter()
                .try_fold(Self::IDENTITY, |before, next| Some(Self::parse(next, &input)?.after(&before))),
            _ => None,
        }
    }

    pub(super) fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        self.0.map(|row| row[0] * x + row[1] * y + row[2])
    }

    /// This one after another.
    pub(super) fn after(&self, first: &Self) -> Self {
        let [along_x, along_y] = first.0;
        Self(self.0.map(|row| {
            let mut made = [0, 1, 2].map(|at| row[0] * along_x[at] + row[1] * along_y[at]);
            made[2] += row[2];
            made
        }))
    }

    /// The way back; `None` where there is none.
    pub(super) fn inverse(&self) -> Option<Self> {
        let [[a, b, tx], [c, d, ty]] = self.0;
        let determinant = a * d - b * c;
        let usable = determinant.is_finite() && determinant != 0.0;
        usable.then(|| {
            let [a, b, c, d] = [d, -b, -c, a].map(|value| value / determinant);
            Self([[a, b, -(a * tx + b * ty)], [c, d, -(c * tx + d * ty)]])
        })
    }

    pub(super) fn is_identity(&self) -> bool {
        *self == Self::IDENTITY
    }

    /// What lengths become on average.
    pub(super) fn scale(&self) -> f64 {
        let [[a, b, _], [c, d, _]] = self.0;
        (a * d - b * c).abs().sqrt()
    }

    /// The factor, if this is one factor for both axes, within a relative tolerance, and a shift by less than another.
    pub(super) fn as_scale(&self, relative: f64, shift: f64) -> Option<f64> {
        let [[a, b, tx], [c, d, ty]] = self.0;
        let near = [b, c, a - d].into_iter().all(|value| value.abs() <= relative * a.abs());
        (a > 0.0 && near && tx.abs() <= shift && ty.abs() <= shift).then_some((a + d) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assume, proptest};
    use serde_json::json;

    use super::*;

    #[test]
    fn axes_are_found_by_their_names() {
        let scale = json!({"type": "scale", "scale": [1.0, 3.0, 2.0]});
        assert_eq!(Affine::parse(&scale, &["c", "y", "x"]).unwrap().apply([1.0, 1.0]), [2.0, 3.0]);
        let axes = |names: &[&str]| json!({"axes": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
        let affine = json!({
            "type": "affine", "affine": [[0.0, 1.0, 5.0], [1.0, 0.0, 7.0]],
            "input": axes(&["x", "y"]), "output": axes(&["x", "y"]),
        });
        assert_eq!(Affine::parse(&affine, &["x", "y"]).unwrap().apply([1.0, 2.0]), [7.0, 8.0]);
        let shift = json!({"type": "translation", "translation": [1.0, 0.0]});
        let sequence = json!({"type": "sequence", "transformations": [affine, shift]});
        assert_eq!(Affine::parse(&sequence, &["x", "y"]).unwrap().apply([1.0, 2.0]), [8.0, 8.0]);
        assert_eq!(Affine::parse(&json!({"type": "mapAxis"}), &["x", "y"]), None);
    }

    proptest! {
        #[test]
        fn there_and_back(numbers in proptest::array::uniform6(-9.0_f64..9.0), x in -99.0..99.0, y in -99.0..99.0) {
            let [a, b, c, d, e, f] = numbers;
            prop_assume!((a * e - b * d).abs() > 0.1);
            let map = Affine([[a, b, c], [d, e, f]]);
            let back = map.inverse().unwrap();
            for [u, v] in [back.apply(map.apply([x, y])), back.after(&map).apply([x, y])] {
                prop_assert!((u - x).abs() < 1e-6 && (v - y).abs() < 1e-6);
            }
        }
    }
}
