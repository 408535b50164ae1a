//! Regions on the tissue, as a part of the page, which its script draws, and as files.

use std::{collections::HashSet, fmt::Write};

use indexmap::IndexMap;
use serde_json::Value;

use super::{
    Figure, Page,
    figures::{self, Disc, Key, Tissue},
    maps::{Judge, Kind, Mapped, Region, Said, Section},
    palette,
    text::{self, escape, slug},
};

/// Colours of right and wrong predictions, as in the page's script.
const RIGHT: &str = "#c9d3dc";
const WRONG: &str = "#d55e00";

/// Bytes of all variants' maps, beyond which some are left out: a page of them and all the rest can still be mailed.
const LARGEST: usize = 16_000_000;

/// Names of the variants that a judge has.
fn variants_of(judge: &Value) -> impl Iterator<Item = &str> {
    judge["variants"].as_array().into_iter().flatten().filter_map(|variant| variant["name"].as_str())
}

/// Leaves variants out until the others take no more than so many bytes; those that are to be kept, and as many as there is room for from
/// the first on, stay. How many are gone.
fn limit(data: &mut Value, kept: &[&str], most: usize) -> usize {
    let mut sizes: IndexMap<String, usize> = IndexMap::new();
    for variant in data["judges"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|judge| judge["variants"].as_array())
        .flatten()
    {
        let name = variant["name"].as_str().unwrap_or_default();
        *sizes.entry(name.to_owned()).or_default() += variant.to_string().len();
    }
    let is_kept = |name: &String| kept.contains(&name.as_str());
    let mut taken: usize = sizes.iter().filter(|(name, _)| is_kept(name)).map(|(_, size)| size).sum();
    let others = sizes.iter().filter(|(name, _)| !is_kept(name));
    let gone: HashSet<String> = others
        .filter(|(_, size)| {
            taken += *size;
            taken > most
        })
        .map(|(name, _)| name.clone())
        .collect();
    for judge in data["judges"].as_array_mut().into_iter().flatten() {
        if let Some(variants) = judge["variants"].as_array_mut() {
            variants.retain(|variant| !variant["name"].as_str().is_some_and(|name| gone.contains(name)));
        }
    }
    gone.len()
}

impl Page<'_> {
    /// What the script draws from, with what there is to choose.
    pub(super) fn tissue_html(&self) -> String {
        let maps = &self.maps;
        let mut html = String::new();
        if !maps.problems.is_empty() {
            let _ = writeln!(html, "<p class=\"alarm\">{}.</p>", escape(&maps.problems.join("; ")));
        }
        let Some(first) = maps.judges.first().filter(|_| !maps.sections.is_empty()) else { return html };
        let mut data = maps.to_json();
        let best = self.best();
        let kept = [Some(self.table.baseline.as_str()), best].into_iter().flatten().collect::<Vec<_>>();
        let left_out = limit(&mut data, &kept, LARGEST);
        if left_out > 0 {
            let _ = writeln!(
                html,
                "<p class=\"alarm\">{} are not drawn, for a page with all of them would be too large: here are the baseline, the best one, \
                 and the first of the others. A run with <code>--only</code> those that are wanted has their maps in its own report.</p>",
                text::counted(left_out, "further variant")
            );
        }
        let seeds = maps.judges.iter().flat_map(|judge| &judge.variants).map(|mapped| mapped.seeds).max();
        let seeds = seeds.unwrap_or(1);
        let names = |wanted: Kind| -> Option<String> {
            let of_it = maps.judges.iter().filter(|judge| judge.kind == wanted);
            let names: Vec<String> =
                of_it.map(|judge| format!("<code>{}</code>", escape(&judge.stage))).collect();
            (!names.is_empty()).then(|| names.join(" or "))
        };
        if let Some(names) = names(Kind::HeldOut) {
            let over = if seeds > 1 { ", each spot with the mean of its seeds’ probabilities" } else { "" };
            let _ = writeln!(
                html,
                "<p>Held-out spots as {names} judges them{over}. Spots that were never held out are hollow.</p>"
            );
        }
        if let Some(names) = names(Kind::Clusters) {
            let _ = writeln!(
                html,
                "<p>Clusters as {names} judges them, of the first seed. A cluster has the colour of the region that most of its \
                 annotated spots are of, unless another one has more of that; an error is a spot of another region.</p>"
            );
        }
        html += "<noscript><p class=\"alarm\">The maps are drawn by the page’s script, which is switched off. `restage report --figures` draws them into files.</p></noscript>\n";
        let options = |names: &mut dyn Iterator<Item = (&str, bool)>| -> String {
            let option = |(place, (name, chosen)): (usize, (&str, bool))| {
                let chosen = if chosen { " selected" } else { "" };
                format!("<option value=\"{place}\"{chosen}>{}</option>", escape(name))
            };
            names.enumerate().map(option).collect()
        };
        let judges = match maps.judges.len() {
            1 => String::new(),
            _ => format!(
                "<label>Judged by <select id=\"map-judge\">{}</select></label>\n",
                options(&mut maps.judges.iter().map(|judge| (judge.stage.as_str(), false)))
            ),
        };
        // First a section that is judged.
        let is_judged = |place: usize| {
            let mut said = first.variants.iter().filter_map(|mapped| mapped.sections.get(place));
            said.any(|said| said.predicted.iter().any(Option::is_some))
        };
        let shown = (0..maps.sections.len()).find(|place| is_judged(*place)).unwrap_or(0);
        let names = maps.sections.iter().enumerate();
        let sections = options(&mut names.map(|(place, section)| (section.name.as_str(), place == shown)));
        let drawn: Vec<String> = variants_of(&data["judges"][0]).map(str::to_owned).collect();
        let variants = options(&mut drawn.iter().map(|name| (name.as_str(), Some(name.as_str()) == best)));
        let votes = if seeds > 1 { "<option value=\"votes\">disagreement of seeds</option>" } else { "" };
        let _ = write!(
            html,
            "<div id=\"maps\" hidden>\n<div class=\"choose\">\n{judges}<label>Section <select id=\"map-section\">{sections}</select></label>\n\
             <label>Variant <select id=\"map-variant\">{variants}</select></label>\n\
             <label>Uncertainty <select id=\"map-doubt\"><option value=\"entropy\">entropy</option><option value=\"rest\">1 − largest probability</option>{votes}</select></label>\n\
             <label class=\"range\">Image <input id=\"map-image\" type=\"range\" min=\"0\" max=\"100\" value=\"65\"></label>\n\
             <label class=\"range\">Spots <input id=\"map-spots\" type=\"range\" min=\"10\" max=\"100\" value=\"90\"></label>\n\
             <span class=\"zoom\"><button type=\"button\" id=\"map-in\" aria-label=\"Zoom in\">+</button><button type=\"button\" id=\"map-out\" aria-label=\"Zoom out\">−</button><button type=\"button\" id=\"map-whole\">whole</button></span>\n</div>\n\
             <p id=\"map-score\" class=\"score\"></p>\n<div class=\"panels\" id=\"map-panels\"></div>\n\
             <p id=\"map-readout\" class=\"readout\" aria-live=\"polite\">Point at a spot, or focus a map and use the arrow keys; + and − zoom, 0 shows the whole.</p>\n\
             <ul class=\"legend\" id=\"map-legend\" aria-label=\"Regions\"></ul>\n</div>\n\
             <script type=\"application/json\" id=\"map-data\">{}</script>\n",
            text::json(&data)
        );
        html
    }

    /// Maps of the baseline and of the best variant, of each section by each judge.
    pub(super) fn maps_in_files(&self) -> Vec<Figure> {
        let maps = &self.maps;
        let wanted = [Some(self.table.baseline.as_str()), self.best()];
        let mut all = Vec::new();
        for (place, section) in maps.sections.iter().enumerate() {
            if !maps.judges.is_empty() {
                all.push(self.truth_map(section));
            }
            for judge in &maps.judges {
                let drawn =
                    judge.variants.iter().filter(|mapped| wanted.contains(&Some(mapped.variant.as_str())));
                for mapped in drawn {
                    all.extend(self.said_maps(section, place, judge, mapped));
                }
            }
        }
        all
    }

    fn truth_map(&self, section: &Section) -> Figure {
        let discs = discs(section, |spot| self.colour(section.truth[spot]?));
        let title = format!("{}: regions as annotated", section.name);
        let drawn = tissue_of(section, discs, self.region_keys());
        figures::tissue(&format!("map-{}-truth", slug(&section.name)), &title, &drawn)
    }

    fn said_maps(&self, section: &Section, place: usize, judge: &Judge, mapped: &Mapped) -> Vec<Figure> {
        // A section that a variant says nothing of has no map.
        let said = mapped.sections.get(place).filter(|said| said.predicted.iter().any(Option::is_some));
        let Some(said) = said else { return Vec::new() };
        // Who judges is said where it is not one and the same.
        let (of, by) = match self.maps.judges.len() {
            1 => (String::new(), String::new()),
            _ => (format!("{}-", slug(&judge.stage)), format!(", by {}", judge.stage)),
        };
        let name = |what: &str| format!("map-{}-{of}{}-{what}", slug(&section.name), slug(&mapped.variant));
        let title = |what: &str| format!("{}: {what} of {}{by}", section.name, mapped.variant);
        let regions = self.maps.regions.len();
        let predicted = discs(section, |spot| match said.clusters.get(said.predicted[spot]?) {
            Some(cluster) => Some(cluster.colour.to_owned()),
            None => self.colour(said.predicted[spot]?),
        });
        let wrong = discs(section, |spot| {
            let is_right = said.region(spot)? == section.truth[spot]?;
            Some(if is_right { RIGHT } else { WRONG }.to_owned())
        });
        let doubt = discs(section, |spot| {
            said.predicted[spot]?;
            Some(palette::hex(palette::share(said.entropy(spot, regions))))
        });
        let entropies = [0.0, 0.5, 1.0].map(|share| {
            let word = if share == 1.0 { "1: all alike".to_owned() } else { share.to_string() };
            key(&palette::hex(palette::share(share)), &word)
        });
        let (what, keys) = match judge.kind {
            Kind::HeldOut => ("prediction", self.region_keys()),
            Kind::Clusters => ("clusters", self.cluster_keys(said)),
        };
        [
            (what, predicted, keys),
            ("errors", wrong, vec![key(RIGHT, "right"), key(WRONG, "wrong")]),
            ("entropy", doubt, entropies.into()),
        ]
        .into_iter()
        .map(|(what, discs, keys)| {
            let drawn = tissue_of(section, discs, keys);
            figures::tissue(&name(what), &title(what), &drawn)
        })
        .collect()
    }

    fn colour(&self, region: usize) -> Option<String> {
        self.maps.regions.get(region).map(|region| region.colour.to_owned())
    }

    fn region_keys(&self) -> Vec<Key> {
        self.maps.regions.iter().map(|Region { name, colour }| key(colour, name)).collect()
    }

    fn cluster_keys(&self, said: &Said) -> Vec<Key> {
        let mostly = |region: Option<usize>| {
            region
                .and_then(|region| self.maps.regions.get(region))
                .map_or(String::new(), |region| format!(", mostly {}", region.name))
        };
        let of = said.clusters.iter();
        of.map(|cluster| key(cluster.colour, &format!("{}{}", cluster.name, mostly(cluster.mostly))))
            .collect()
    }
}

fn key(colour: &str, word: &str) -> Key {
    Key { colour: colour.to_owned(), word: word.to_owned() }
}

fn tissue_of(section: &Section, discs: Vec<Disc>, keys: Vec<Key>) -> Tissue<'_> {
    Tissue {
        width: section.width,
        height: section.height,
        radius: section.radius,
        image: section.image.as_deref(),
        discs,
        keys,
    }
}

fn discs(section: &Section, colour: impl Fn(usize) -> Option<String>) -> Vec<Disc> {
    let disc = |(spot, [x, y]): (usize, &[f64; 2])| Disc { x: *x, y: *y, colour: colour(spot) };
    section.at.iter().enumerate().map(disc).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_too_large_leaves_variants_out_and_never_the_baseline_or_the_best() {
        let all = ["baseline", "a", "b", "c", "best"];
        let judge = |of: &[&str]| -> Value {
            let variants = of.iter().map(|name| json!({ "name": name, "sections": ["x".repeat(1_000)] }));
            json!({ "variants": variants.collect::<Vec<_>>() })
        };
        let data = json!({ "judges": [judge(&all), judge(&all[..2])] });
        let limited = |most: usize| {
            let mut data = data.clone();
            let gone = limit(&mut data, &["baseline", "best"], most);
            let left =
                |judge: usize| variants_of(&data["judges"][judge]).map(str::to_owned).collect::<Vec<_>>();
            (gone, left(0), left(1))
        };
        assert_eq!(limited(1_000_000).0, 0);
        assert_eq!(limited(1_000_000).1, all);
        // Two judges have `a`: with it and the two that are kept there are five maps.
        assert_eq!(limited(5_500).1, ["baseline", "a", "best"]);
        let (gone, first, second) = limited(10);
        assert_eq!(
            (gone, first, second),
            (3, vec!["baseline".into(), "best".into()], vec!["baseline".into()])
        );
    }
}
