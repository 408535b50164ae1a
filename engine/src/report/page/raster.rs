//! Figures in pixels, for what takes no SVG. Letters are DejaVu Sans, which the binary has: a figure is the same on every machine.

use std::sync::{Arc, LazyLock};

use resvg::{
    tiny_skia::{Color, Pixmap, Transform},
    usvg::{
        Options, Tree,
        fontdb::{Database, Source},
    },
};

/// What an SVG's pixel is of an inch.
const PER_INCH: f64 = 96.0;
/// The longest side of a picture: a graph of hundreds of stages would fill the memory.
const LONGEST: f64 = 16_384.0;
const FONT: &str = "DejaVu Sans";

static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    for font in [dejavu::sans::regular(), dejavu::sans::bold()] {
        fonts.load_font_source(Source::Binary(Arc::new(font)));
    }
    fonts.set_sans_serif_family(FONT);
    // Where none of the families that are asked for is there, this is what is taken.
    fonts.set_serif_family(FONT);
    Arc::new(fonts)
});

/// An SVG as a PNG with so many pixels to the inch, which it tells whoever prints it; fewer where a side would be longer than
/// [`LONGEST`] pixels. What is transparent is white.
///
/// # Errors
///
/// What is no SVG.
pub(crate) fn png(svg: &str, dpi: u32) -> Result<Vec<u8>, String> {
    let options = Options { font_family: FONT.into(), fontdb: FONTS.clone(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let [width, height] = [tree.size().width(), tree.size().height()].map(f64::from);
    let scale = (f64::from(dpi) / PER_INCH).min(LONGEST / width.max(height));
    let [columns, rows] = [width, height].map(|side| (side * scale).round().max(1.0) as u32);
    let mut pixels = Pixmap::new(columns, rows).ok_or("it has no size")?;
    pixels.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(scale as f32, scale as f32), &mut pixels.as_mut());
    let colours: Vec<u8> =
        pixels.data().as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]).collect();
    encode(&colours, [columns, rows], scale * PER_INCH).map_err(|error| error.to_string())
}

fn encode(colours: &[u8], [columns, rows]: [u32; 2], dpi: f64) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, columns, rows);
    encoder.set_color(png::ColorType::Rgb);
    let per_metre = (dpi / 0.0254).round() as u32;
    encoder.set_pixel_dims(Some(png::PixelDimensions {
        xppu: per_metre,
        yppu: per_metre,
        unit: png::Unit::Meter,
    }));
    let mut writer = encoder.write_header()?;
    writer.write_image_data(colours)?;
    writer.finish()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(file: &[u8]) -> (png::Info<'static>, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        (reader.info().clone(), pixels)
    }

    fn svg(inside: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 96 48\" width=\"96\" height=\"48\">{inside}</svg>"
        )
    }

    #[test]
    fn an_inch_has_the_pixels_that_were_asked_for() {
        let file = png(&svg("<rect width=\"48\" height=\"48\" fill=\"#0072b2\"/>"), 300).unwrap();
        let (info, pixels) = decoded(&file);
        assert_eq!((info.width, info.height, info.color_type), (300, 150, png::ColorType::Rgb));
        // 300 / 0.0254
        assert_eq!(info.pixel_dims.unwrap().xppu, 11_811);
        let at = |x: usize, y: usize| &pixels[(y * 300 + x) * 3..][..3];
        assert_eq!((at(10, 10), at(149, 149)), (&[0x00, 0x72, 0xb2][..], &[0x00, 0x72, 0xb2][..]));
        assert_eq!(at(150, 0), [255; 3]);
    }

    #[test]
    fn letters_are_drawn_with_no_font_on_the_machine() {
        let dark = |text: &str, style: &str| {
            let text = format!("<style>{style}</style><text class=\"t\" x=\"4\" y=\"30\">{text}</text>");
            let (_, pixels) = decoded(&png(&svg(&text), 192).unwrap());
            pixels.iter().filter(|channel| **channel < 128).count()
        };
        let text = "F1 \u{2212}0.5 ± Δ";
        let plain = dark(text, ".t{font-family:system-ui,\"Segoe UI\",sans-serif;font-size:12px}");
        let strong = dark(text, ".t{font-family:system-ui;font-size:12px;font-weight:700}");
        assert!(plain > 1_000 && strong > plain * 5 / 4, "{plain} and {strong}");
        assert_eq!(dark("", ""), 0);
    }

    #[test]
    fn a_picture_that_would_be_too_large_has_fewer_pixels_to_the_inch() {
        let long = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9600\" height=\"1\"/>";
        let (info, _) = decoded(&png(long, 300).unwrap());
        // 100 inches wide: 163.84 to the inch.
        assert_eq!((info.width, info.pixel_dims.unwrap().xppu), (16_384, 6_450));
        assert!(png("<html/>", 300).is_err());
    }
}
