//! How people name what a plan or a run has: `STAGE`, or `STAGE[VALUE]` for one point of a mapped stage; with `.PORT` for one
//! output, with `@VARIANT` for one variant.

use std::collections::{BTreeMap, BTreeSet};

use super::{BASELINE, name};
use crate::workflow::{Diagnostic, Place, suggest};

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    text: &'a str,
    /// The stage, its place and its port.
    stage: &'a str,
    variant: Option<&'a str>,
}

/// One stage of one variant, as far as it is named.
pub(crate) struct Known<'a> {
    pub(crate) stage: &'a str,
    pub(crate) at: &'a BTreeMap<String, String>,
    pub(crate) variant: &'a str,
    pub(crate) ports: Vec<&'a str>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let (stage, variant) = match text.split_once('@') {
            Some((stage, variant)) => (stage, Some(variant)),
            None => (text, None),
        };
        Self { text, stage, variant }
    }

    /// The same of a variant, where it names none.
    pub(crate) fn or_of(self, variant: Option<&'a str>) -> Self {
        Self { variant: self.variant.or(variant), ..self }
    }

    /// Whether a stage is asked for, whichever of its outputs.
    pub(crate) fn is<'b>(
        &self,
        stage: &str,
        at: &BTreeMap<String, String>,
        mut ports: impl Iterator<Item = &'b str>,
    ) -> bool {
        let is_stage = |text: &str| text == stage || (text.ends_with(']') && text == name(stage, at));
        is_stage(self.stage) || ports.any(|port| before(self.stage, port).is_some_and(is_stage))
    }

    /// Whether its variant is one that is asked for.
    pub(crate) fn is_of(&self, variant: &str, baseline: &str) -> bool {
        let is = |wanted: &str| variant == wanted || (wanted == BASELINE && variant == baseline);
        self.variant.is_none_or(is)
    }

    /// Says what is not there, and what was meant.
    pub(crate) fn unknown(&self, known: &[Known]) -> Diagnostic {
        let problem =
            |message: String| Diagnostic::new(&Place::argument(self.text), message, "asked for here");
        let named: Vec<&Known> = known
            .iter()
            .filter(|known| self.is(known.stage, known.at, known.ports.iter().copied()))
            .collect();
        if let (Some(variant), false) = (self.variant, named.is_empty()) {
            let variants: BTreeSet<&str> = named.iter().map(|known| known.variant).collect();
            return problem(format!("`{}` has no variant `{variant}`", self.stage))
                .help(suggest(variant, variants));
        }
        let of = |stage: &str| known.iter().filter(|known| known.stage == stage).collect::<Vec<_>>();
        if let Some((stage, _)) = self.stage.split_once('[') {
            let places: BTreeSet<String> =
                of(stage).iter().map(|known| name(known.stage, known.at)).collect();
            if !places.is_empty() {
                return problem(format!("there is no `{}`", self.stage))
                    .help(suggest(self.stage, places.iter().map(String::as_str)));
            }
        }
        if let Some((stage, port)) = self.stage.rsplit_once('.') {
            let ports: BTreeSet<&str> =
                of(stage).iter().flat_map(|known| known.ports.iter().copied()).collect();
            if !ports.is_empty() {
                return problem(format!("`{stage}` has no output `{port}`")).help(suggest(port, ports));
            }
        }
        let stages: BTreeSet<&str> = known.iter().map(|known| known.stage).collect();
        problem(format!("there is no stage `{}`", self.stage)).help(suggest(self.stage, stages))
    }
}

/// What stands before `.PORT`.
fn before<'a>(text: &'a str, port: &str) -> Option<&'a str> {
    text.strip_suffix(port)?.strip_suffix('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_named_by_place_port_and_variant() {
        let at = BTreeMap::from([("sample".to_owned(), "A1.b".to_owned())]);
        let is = |text: &str| Wanted::new(text).is("prep.load", &at, ["table", "image"].into_iter());
        for text in
            ["prep.load", "prep.load.table", "prep.load[A1.b]", "prep.load[A1.b].image", "prep.load.table@x"]
        {
            assert!(is(text), "{text}");
        }
        for text in ["", "table", "prep", "prep.load.", "prep.load.labels", "prep.load[A1]", "prep.loadtable"]
        {
            assert!(!is(text), "{text}");
        }
        assert!(Wanted::new("load").is_of("x", "x") && Wanted::new("load@x").is_of("x", "y"));
        assert!(
            Wanted::new("load@baseline").is_of("x", "x") && !Wanted::new("load@baseline").is_of("y", "x")
        );
        let or = Wanted::new("load@x").or_of(Some("y"));
        assert!(or.is_of("x", "z") && !or.is_of("y", "z"));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_was_meant() {
        let (none, at) = (BTreeMap::new(), BTreeMap::from([("s".to_owned(), "A1".to_owned())]));
        let known = |stage, at, variant| Known { stage, at, variant, ports: vec!["model", "embedding"] };
        let all = [
            known("pretrain", &none, "baseline"),
            known("linear", &at, "baseline"),
            known("linear", &at, "pca"),
        ];
        let told = |text: &str| {
            let told = Wanted::new(text).unknown(&all);
            format!("{} | {}", told.message, told.help.unwrap_or_default())
        };
        assert_eq!(told("pretrian"), "there is no stage `pretrian` | did you mean `pretrain`?");
        assert_eq!(told("pretrain.modle"), "`pretrain` has no output `modle` | did you mean `model`?");
        assert_eq!(told("linear[B1]"), "there is no `linear[B1]` | did you mean `linear[A1]`?");
        assert_eq!(told("linear@pac"), "`linear` has no variant `pac` | did you mean `pca`?");
        assert_eq!(
            told("linear[A1].model@pac"),
            "`linear[A1].model` has no variant `pac` | did you mean `pca`?"
        );
    }
}
