//! A section with its spots as discs, on its image.

use std::fmt::Write;

use super::super::{
    plot::{Figure, label, text},
    text::escape,
};

/// What is drawn.
pub(crate) struct Tissue<'a> {
    /// In the units of the spots.
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) radius: f64,
    /// A `data:` address.
    pub(crate) image: Option<&'a str>,
    pub(crate) discs: Vec<Disc>,
    pub(crate) keys: Vec<Key>,
}

/// A spot.
pub(crate) struct Disc {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// `None`: there is nothing to say of it.
    pub(crate) colour: Option<String>,
}

/// What a colour means.
pub(crate) struct Key {
    pub(crate) colour: String,
    pub(crate) word: String,
}

const WIDTH: f64 = 420.0;

pub(crate) fn tissue(name: &str, title: &str, tissue: &Tissue<'_>) -> Figure {
    let scale = WIDTH / tissue.width.max(1.0);
    let height = tissue.height * scale;
    let mut body = label("name strong", 0.0, 14.0, "start", title, 60);
    body += "<g transform=\"translate(0 24)\">\n";
    if let Some(image) = tissue.image {
        let _ = writeln!(
            body,
            "<image href=\"{}\" width=\"{WIDTH:.0}\" height=\"{height:.1}\" preserveAspectRatio=\"none\"/>",
            escape(image)
        );
    }
    for disc in &tissue.discs {
        let (x, y, radius) = (disc.x * scale, disc.y * scale, tissue.radius * scale);
        let look = match &disc.colour {
            Some(colour) => format!("fill=\"{colour}\""),
            None => "fill=\"none\" stroke=\"#8c959f\" stroke-width=\".5\"".to_owned(),
        };
        let _ = writeln!(body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.2}\" {look}/>");
    }
    body += "</g>\n";
    let mut y = height + 46.0;
    for row in tissue.keys.chunks(2) {
        for (key, x) in row.iter().zip([0.0, WIDTH / 2.0]) {
            let _ = writeln!(
                body,
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"12\" height=\"12\" rx=\"3\" fill=\"{}\"/>",
                y - 10.0,
                key.colour
            );
            body += &text("name", x + 18.0, y, "start", &key.word);
        }
        y += 19.0;
    }
    Figure { name: name.to_owned(), title: title.to_owned(), width: WIDTH, height: y, body }
}
