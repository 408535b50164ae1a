//! Colours that people with any kind of colour vision tell apart, on white, on black and on H&E.

use indexmap::IndexMap;

use super::text::natural;

/// For names, of Okabe and Ito (2008) and of Tol (2021); those that H&E hides come late, and the last six lie near
/// others, so that twenty regions have twenty. A region has one of them everywhere in a report.
const NAMED: [&str; 20] = [
    "#0072b2", "#e69f00", "#009e73", "#56b4e9", "#882255", "#f0e442", "#cc79a7", "#d55e00", "#332288",
    "#44aa99", "#999933", "#661100", "#aa4499", "#888888", "#111111", "#a8e05f", "#7b4fd0", "#00c2e0",
    "#f7b6c9", "#b5803a",
];

/// For lines of variants, on light and on dark paper: what is thin needs more contrast than discs do.
pub(super) const LINES: [[&str; 2]; 13] = [
    ["#0072b2", "#56a8f0"],
    ["#d55e00", "#f58b4c"],
    ["#00845f", "#33c79a"],
    ["#b5508c", "#e79bc4"],
    ["#a87200", "#e6b84a"],
    ["#332288", "#a496ff"],
    ["#2f8fce", "#9ad6ff"],
    ["#882255", "#e0648f"],
    ["#7a7a1f", "#c9c966"],
    ["#2b8577", "#6fd6c8"],
    ["#8a3b12", "#d99a7c"],
    ["#a03fa0", "#d48be0"],
    ["#6f757c", "#a9b0b8"],
];

/// The style of lines: a class for each place, of variables that [`line_colours`] sets.
pub(super) fn line_style() -> String {
    let of = |at: usize| {
        format!(".fig .curve.l{at}{{stroke:var(--line-{at})}}\n.fig .spread.l{at}{{fill:var(--line-{at})}}\n")
    };
    (0..LINES.len()).map(of).collect()
}

/// The variables of a page.
pub(super) fn line_colours() -> String {
    let of = |paper: usize| -> String {
        LINES.iter().enumerate().map(|(at, colours)| format!("--line-{at}:{};", colours[paper])).collect()
    };
    format!(":root{{{}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n", of(0), of(1))
}

/// The colour of the name at a position; they begin again after the last one.
pub(super) fn named(position: usize) -> &'static str {
    NAMED[position % NAMED.len()]
}

/// Colours of regions, by name: in the order of the names, so that the same regions have the same colours in every report.
pub(super) fn regions<'a>(names: impl IntoIterator<Item = &'a str>) -> IndexMap<String, &'static str> {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by(|a, b| natural(a, b));
    names.dedup();
    names.into_iter().zip(0..).map(|(name, position)| (name.to_owned(), named(position))).collect()
}

/// A share from 0 to 1 as a colour, from dark to light: some points of Matplotlib's viridis, between them linear.
pub(super) fn share(share: f64) -> [u8; 3] {
    const STOPS: [[f64; 3]; 6] = [
        [68.0, 1.0, 84.0],
        [65.0, 68.0, 135.0],
        [42.0, 120.0, 142.0],
        [34.0, 168.0, 132.0],
        [122.0, 209.0, 81.0],
        [253.0, 231.0, 37.0],
    ];
    let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
    let place = share * (STOPS.len() - 1) as f64;
    let below = (place.floor() as usize).min(STOPS.len() - 2);
    let part = place - below as f64;
    [0, 1, 2].map(|channel| {
        let (from, to) = (STOPS[below][channel], STOPS[below + 1][channel]);
        (from + (to - from) * part).round() as u8
    })
}

/// As SVG writes it.
pub(super) fn hex([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_has_its_colour_whatever_the_order() {
        let (a, b) = (regions(["tumour", "fat", "fat"]), regions(["fat", "tumour"]));
        assert_eq!(a, b);
        assert_eq!((a["fat"], a["tumour"]), (NAMED[0], NAMED[1]));
        assert_eq!(named(NAMED.len()), named(0));
    }

    #[test]
    fn lines_can_be_told_from_the_paper() {
        let luminance = |colour: &str| -> f64 {
            let channel = |at: usize| f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            let linear = |c: f64| if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
            let [red, green, blue] = [1, 3, 5].map(|at| linear(channel(at)));
            0.2126 * red + 0.7152 * green + 0.0722 * blue
        };
        // WCAG 2.2, 1.4.11: 3 to 1 for what is no text.
        let contrast = |a: &str, b: &str| {
            let [a, b] = [luminance(a), luminance(b)];
            (a.max(b) + 0.05) / (a.min(b) + 0.05)
        };
        for [light, dark] in LINES {
            let found = [contrast(light, "#ffffff"), contrast(dark, "#171a20")];
            assert!(found.iter().all(|contrast| *contrast >= 3.0), "{light} {dark}: {found:?}");
        }
    }

    #[test]
    fn shares_go_from_dark_to_light() {
        let brightness = |at: f64| share(at).map(u32::from).iter().sum::<u32>();
        assert_eq!((hex(share(-1.0)), hex(share(1.0))), ("#440154".into(), "#fde725".into()));
        assert!(
            (1..=20).all(|step| brightness(f64::from(step) / 20.0) > brightness(f64::from(step - 1) / 20.0))
        );
        assert_eq!(hex(share(f64::NAN)), "#440154", "what is no number is no share");
    }
}
