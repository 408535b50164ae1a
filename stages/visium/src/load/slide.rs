//! The microscope's own image, at full resolution: TIFF, BigTIFF and OME-TIFF by strip or row of tiles, so that a
//! whole slide is never in memory; PNG and JPEG by row; interlaced PNG, whose pixels come in no order, at once.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use restage_stage::{Context, Error, Result, artifact::ImageRows};
use tiff::{
    ColorType, TiffError,
    decoder::{ChunkType, Decoder, DecodingResult, Limits},
    tags::{PlanarConfiguration, Tag},
};

use super::{jpeg, lzw::Lzw};

/// An image that has been looked at and not yet decoded.
pub(crate) struct Slide {
    pub height: usize,
    pub width: usize,
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    /// The page of a TIFF with the most pixels: the others of a pyramid are smaller copies. Or the three of red, green and
    /// blue, as an OME-TIFF may have them.
    Tiff {
        pages: Vec<usize>,
    },
    /// A PNG whose rows come from the top.
    Png,
    Jpeg,
    Other,
}

impl Slide {
    /// Looks at the file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut magic = [0; 4];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
        read.map_err(Error::io(path))?;
        let path = path.to_owned();
        // "II" or "MM", then 42, or 43 of BigTIFF.
        if matches!(magic, [b'I', b'I', 42 | 43, 0] | [b'M', b'M', 0, 42 | 43]) {
            let (pages, width, height) = largest_pages(&path).map_err(unreadable_tiff(&path))?;
            return Ok(Self { height, width, path, kind: Kind::Tiff { pages } });
        }
        if magic == *b"\x89PNG" {
            let reader = png_reader(&path).map_err(unreadable(&path))?;
            let (height, width) = (reader.info().height as usize, reader.info().width as usize);
            let kind = if reader.info().interlaced { Kind::Other } else { Kind::Png };
            return Ok(Self { height, width, path, kind });
        }
        if magic.starts_with(b"\xff\xd8\xff") {
            let (height, width) = jpeg::dimensions(&path)?;
            return Ok(Self { height, width, path, kind: Kind::Jpeg });
        }
        let reader = image::ImageReader::open(&path).map_err(Error::io(&path))?;
        let reader = reader.with_guessed_format().map_err(Error::io(&path))?;
        let (width, height) = reader.into_dimensions().map_err(unreadable(&path))?;
        Ok(Self { height: height as usize, width: width as usize, path, kind: Kind::Other })
    }

    /// Decodes the image, from the top, into `rows`.
    pub(crate) fn copy(&self, rows: &mut ImageRows, ctx: &Context) -> Result<()> {
        match &self.kind {
            Kind::Tiff { pages } => {
                let planes = pages.iter().map(|&page| Bands::open(&self.path, page));
                let mut planes: Vec<Bands> =
                    planes.collect::<Result<_, _>>().map_err(unreadable_tiff(&self.path))?;
                let (count, chunk) = (planes[0].count, planes[0].chunk);
                if planes.iter().any(|plane| plane.chunk != chunk) {
                    let problem = unsupported("pages of one colour each that are tiled in different ways");
                    return Err(unreadable_tiff(&self.path)(problem));
                }
                for band in 0..count {
                    ctx.progress(band as u64, count as u64, "bands of the slide");
                    ctx.check_cancelled()?;
                    let decoded = planes.iter_mut().map(|plane| plane.decode(band));
                    let mut decoded: Vec<Vec<u8>> =
                        decoded.collect::<Result<_, _>>().map_err(unreadable_tiff(&self.path))?;
                    // A page of one colour is gray: it has its value three times.
                    if let [red, green, blue] = &mut decoded[..] {
                        let values = red.iter_mut().zip(green.iter().zip(blue.iter())).enumerate();
                        values.for_each(|(place, (red, (&green, &blue)))| match place % 3 {
                            1 => *red = green,
                            2 => *red = blue,
                            _ => {}
                        });
                    }
                    rows.push(&decoded[0])?;
                }
                Ok(())
            }
            Kind::Png => {
                let mut reader = png_reader(&self.path).map_err(unreadable(&self.path))?;
                let channels = reader.output_color_type().0.samples();
                let (mut band, mut row) = (Vec::new(), 0);
                while let Some(pixels) = reader.next_row().map_err(unreadable(&self.path))? {
                    band.extend(pixels.data().chunks_exact(channels).flat_map(|pixel| match *pixel {
                        [red, green, blue, ..] => [red, green, blue],
                        [gray, ..] => [gray; 3],
                        [] => [0; 3],
                    }));
                    row += 1;
                    if row % PNG_ROWS == 0 {
                        ctx.progress(row as u64, self.height as u64, "rows of the slide");
                        ctx.check_cancelled()?;
                        rows.push(&std::mem::take(&mut band))?;
                    }
                }
                if band.is_empty() { Ok(()) } else { rows.push(&band) }
            }
            Kind::Jpeg => {
                let mut row = 0;
                jpeg::rows(&self.path, |band| {
                    ctx.progress(row as u64, self.height as u64, "rows of the slide");
                    ctx.check_cancelled()?;
                    row += band.len() / (3 * self.width);
                    rows.push(band)
                })
            }
            Kind::Other => {
                let mut reader = image::ImageReader::open(&self.path).map_err(Error::io(&self.path))?;
                // A slide may take more than the half gigabyte that the crate grants by default.
                reader.no_limits();
                let reader = reader.with_guessed_format().map_err(Error::io(&self.path))?;
                rows.push(&reader.decode().map_err(unreadable(&self.path))?.into_rgb8())
            }
        }
    }
}

fn unreadable<E: Into<Box<dyn std::error::Error + Send + Sync>>>(path: &Path) -> impl FnOnce(E) -> Error {
    Error::other(format!("cannot read the image {}", path.display()))
}

fn unreadable_tiff(path: &Path) -> impl FnOnce(TiffError) -> Error {
    let name = path.display().to_string();
    move |problem| {
        let hint = match problem {
            TiffError::UnsupportedError(_) => {
                ": save it as 8-bit RGB, packed by deflate, LZW, PackBits or JPEG, or not at all"
            }
            _ => "",
        };
        Error::other(format!("cannot read the image {name}{hint}"))(problem)
    }
}

/// Rows of a PNG that are decoded at a time.
const PNG_ROWS: usize = 256;

/// Samples of 8 bits, in gray or colour, with or without transparency.
fn png_reader(path: &Path) -> std::result::Result<png::Reader<BufReader<File>>, png::DecodingError> {
    // Room for a row of a million pixels and its neighbours; a whole slide never lies in memory.
    let limits = png::Limits { bytes: 1 << 27 };
    let mut decoder = png::Decoder::new_with_limits(BufReader::new(File::open(path)?), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    decoder.read_info()
}

/// No packing that TIFF knows makes pixels smaller than this; a file that says it does is wrong.
const MOST_PACKED: usize = 2048;

fn decoder(path: &Path) -> Result<Decoder<BufReader<File>>, TiffError> {
    let file = File::open(path)?;
    // Large chunks are no sign of an attack, unless they are larger than the file can be unpacked to.
    let mut limits = Limits::unlimited();
    limits.decoding_buffer_size =
        usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).saturating_mul(MOST_PACKED);
    Ok(Decoder::new(BufReader::new(file))?.with_limits(limits))
}

/// Position, width and height; three positions where each colour has a page.
fn largest_pages(path: &Path) -> Result<(Vec<usize>, usize, usize), TiffError> {
    let mut decoder = decoder(path)?;
    let mut pages = Vec::new();
    loop {
        let (width, height) = decoder.dimensions()?;
        let is_gray = decoder.find_tag_unsigned::<u16>(Tag::SamplesPerPixel)?.unwrap_or(1) == 1;
        pages.push((width as usize, height as usize, is_gray));
        if !decoder.more_images() {
            break;
        }
        decoder.next_image()?;
    }
    let area = pages.iter().map(|(width, height, _)| width * height).max().unwrap_or_default();
    let alike: Vec<usize> = (0..pages.len()).filter(|&page| pages[page].0 * pages[page].1 == area).collect();
    let (width, height, is_gray) = pages[alike[0]];
    let colours: Vec<usize> =
        alike.into_iter().filter(|&page| pages[page] == (width, height, is_gray)).collect();
    match colours.len() {
        count if !is_gray || count == 1 => Ok((vec![colours[0]], width, height)),
        3 => Ok((colours, width, height)),
        count => {
            Err(unsupported(&format!("{count} pages of one colour each, not the three of an H&E image")))
        }
    }
}

/// The page of a TIFF, cut into rows of chunks: strips, or tiles beside each other.
struct Bands {
    /// One for each thread: a decoder is in one place of the file at a time.
    decoders: Vec<Decoder<BufReader<File>>>,
    width: usize,
    height: usize,
    /// Chunks beside each other.
    across: usize,
    /// Bands of the page.
    count: usize,
    /// Width and height of a chunk that is not at the edge.
    chunk: (usize, usize),
    color: ColorType,
    /// Whether each colour lies in chunks of its own.
    planes: Option<usize>,
    /// Where chunks are packed by LZW.
    lzw: Option<Lzw>,
}

impl Bands {
    fn open(path: &Path, page: usize) -> Result<Self, TiffError> {
        let threads = rayon::current_num_threads();
        let mut decoders = (0..threads)
            .map(|_| {
                let mut decoder = decoder(path)?;
                decoder.seek_to_image(page)?;
                Ok(decoder)
            })
            .collect::<Result<Vec<_>, TiffError>>()?;
        let first = &mut decoders[0];
        let (width, height) = first.dimensions()?;
        let (chunk_width, chunk_height) = first.chunk_dimensions();
        let color = first.colortype()?;
        let planar = first.find_tag_unsigned::<u16>(Tag::PlanarConfiguration)?;
        let is_planar = planar == Some(PlanarConfiguration::Planar.to_u16());
        let samples = first.find_tag_unsigned::<u16>(Tag::SamplesPerPixel)?.unwrap_or(1);
        let interleaved = if is_planar { 1 } else { usize::from(samples) };
        let lzw = Lzw::of_page(path, first, interleaved)?;
        let across = match first.get_chunk_type() {
            ChunkType::Strip => 1,
            ChunkType::Tile => width.div_ceil(chunk_width) as usize,
        };
        Ok(Self {
            decoders,
            width: width as usize,
            height: height as usize,
            across,
            count: height.div_ceil(chunk_height) as usize,
            chunk: (chunk_width as usize, chunk_height as usize),
            planes: is_planar.then_some(usize::from(samples)),
            color,
            lzw,
        })
    }

    /// RGB pixels of a band.
    fn decode(&mut self, band: usize) -> Result<Vec<u8>, TiffError> {
        let rows = (self.height - band * self.chunk.1).min(self.chunk.1);
        let (color, across, count, planes) = (self.color, self.across, self.count, self.planes);
        let (lzw, share) = (self.lzw.as_ref(), across.div_ceil(self.decoders.len()));
        let columns: Vec<usize> = (0..across).collect();
        let decoded = self
            .decoders
            .par_iter_mut()
            .zip(columns.par_chunks(share))
            .map(|(decoder, columns)| {
                let of_column = |&column: &usize| {
                    let chunk = band * across + column;
                    let mut read = |chunk: usize| match lzw {
                        None => decoder.read_chunk(chunk as u32).and_then(bytes),
                        Some(lzw) => {
                            let inside = decoder.chunk_data_dimensions(chunk as u32);
                            lzw.decode(decoder.inner(), chunk, inside)
                        }
                    };
                    match planes {
                        None => rgb(&read(chunk)?, color),
                        Some(planes) => {
                            let planes: Result<Vec<Vec<u8>>, TiffError> =
                                (0..planes).map(|plane| read(plane * across * count + chunk)).collect();
                            rgb(&interleave(&planes?), color)
                        }
                    }
                };
                columns.iter().map(of_column).collect::<Result<Vec<_>, TiffError>>()
            })
            .collect::<Result<Vec<_>, TiffError>>()?;
        let tiles: Vec<Vec<u8>> = decoded.into_iter().flatten().collect();
        Ok(self.beside(&tiles, rows))
    }

    /// Rows of tiles as rows of the page.
    fn beside(&self, tiles: &[Vec<u8>], rows: usize) -> Vec<u8> {
        let mut band = Vec::with_capacity(rows * self.width * 3);
        for row in 0..rows {
            for tile in tiles {
                // A chunk at the edge holds only what lies inside the page.
                let width = tile.len() / rows;
                band.extend_from_slice(&tile[row * width..][..width]);
            }
        }
        band
    }
}

/// Samples of 8 bits; of longer ones the upper 8.
fn bytes(decoded: DecodingResult) -> Result<Vec<u8>, TiffError> {
    match decoded {
        DecodingResult::U8(samples) => Ok(samples),
        DecodingResult::U16(samples) => Ok(samples.into_iter().map(|sample| (sample >> 8) as u8).collect()),
        _ => Err(unsupported("samples that are neither of 8 nor of 16 bits")),
    }
}

fn unsupported(what: &str) -> TiffError {
    TiffError::IoError(std::io::Error::other(format!("it has {what}; save it as 8-bit RGB")))
}

fn interleave(planes: &[Vec<u8>]) -> Vec<u8> {
    let length = planes.iter().map(Vec::len).min().unwrap_or_default();
    (0..length).flat_map(|pixel| planes.iter().map(move |plane| plane[pixel])).collect()
}

/// Pixels of any layout as RGB.
fn rgb(samples: &[u8], color: ColorType) -> Result<Vec<u8>, TiffError> {
    let first_three =
        |n: usize| samples.chunks_exact(n).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    Ok(match color {
        ColorType::RGB(8 | 16) => samples.to_vec(),
        ColorType::RGBA(8 | 16) => first_three(4),
        ColorType::Gray(8 | 16) => samples.iter().flat_map(|&sample| [sample; 3]).collect(),
        ColorType::GrayA(8 | 16) => samples.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
        ColorType::Multiband { bit_depth: 8 | 16, num_samples: samples @ 3.. } => {
            first_three(usize::from(samples))
        }
        ColorType::YCbCr(8) => samples.chunks_exact(3).flat_map(ycbcr).collect(),
        other => return Err(unsupported(&format!("pixels of the kind {other:?}"))),
    })
}

/// JFIF's full-range conversion.
fn ycbcr(pixel: &[u8]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(pixel[0]), f32::from(pixel[1]) - 128.0, f32::from(pixel[2]) - 128.0);
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb]
        .map(|v| v.round().clamp(0.0, 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use restage_stage::artifact::{Artifact, Image};
    use tiff::encoder::{TiffEncoder, colortype};

    use super::*;
    use crate::stages_test::context;

    fn copy(bytes: &[u8]) -> Result<Image> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slide.tif");
        std::fs::write(&path, bytes).unwrap();
        let slide = Slide::open(&path)?;
        let about = Image { height: slide.height, width: slide.width, scale: 1.0, ..Image::default() };
        let mut rows = ImageRows::create(&folder.path().join("image"), &about)?;
        slide.copy(&mut rows, &context(folder.path()))?;
        rows.finish()?;
        Image::read(&folder.path().join("image"))
    }

    fn pixels(width: u32, height: u32, channels: u32) -> Vec<u8> {
        (0..width * height * channels).map(|byte| (byte * 7 % 256) as u8).collect()
    }

    #[test]
    fn the_largest_page_of_a_pyramid_is_read_strip_by_strip() {
        let (mut small, large) = (Cursor::new(Vec::new()), pixels(70, 50, 3));
        let mut encoder = TiffEncoder::new(&mut small).unwrap();
        encoder.write_image::<colortype::RGB8>(35, 25, &pixels(35, 25, 3)).unwrap();
        let mut image = encoder.new_image::<colortype::RGB8>(70, 50).unwrap();
        image.rows_per_strip(7).unwrap();
        image.write_data(&large).unwrap();
        let image = copy(small.get_ref()).unwrap();
        assert_eq!((image.width, image.height), (70, 50));
        assert!(image.pixels == large);
    }

    #[test]
    fn other_kinds_of_pixels_become_rgb() {
        let mut gray = Cursor::new(Vec::new());
        let wide: Vec<u16> = (0..12).map(|sample| sample * 5000).collect();
        TiffEncoder::new_big(&mut gray).unwrap().write_image::<colortype::Gray16>(4, 3, &wide).unwrap();
        let expected: Vec<u8> = wide.iter().flat_map(|&sample| [(sample >> 8) as u8; 3]).collect();
        assert_eq!(copy(gray.get_ref()).unwrap().pixels, expected);

        let (mut rgba, samples) = (Cursor::new(Vec::new()), pixels(4, 3, 4));
        TiffEncoder::new(&mut rgba).unwrap().write_image::<colortype::RGBA8>(4, 3, &samples).unwrap();
        let expected: Vec<u8> = samples.chunks(4).flat_map(|pixel| pixel[..3].to_vec()).collect();
        assert_eq!(copy(rgba.get_ref()).unwrap().pixels, expected);
    }

    #[test]
    fn png_is_read_row_by_row() {
        let encode = |image: image::DynamicImage| {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
            bytes.into_inner()
        };
        let samples = pixels(70, 600, 4);
        let rgba = image::RgbaImage::from_raw(70, 600, samples.clone()).unwrap();
        let bytes = encode(rgba.into());
        let expected: Vec<u8> = samples.chunks(4).flat_map(|pixel| pixel[..3].to_vec()).collect();
        assert!(copy(&bytes).unwrap().pixels == expected);
        assert!(copy(&bytes[..bytes.len() / 2]).unwrap_err().to_string().contains("slide.tif"));
        let gray = image::GrayImage::from_raw(3, 2, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let expected: Vec<u8> = (1..=6).flat_map(|value| [value; 3]).collect();
        assert_eq!(copy(&encode(gray.into())).unwrap().pixels, expected);
    }

    #[test]
    fn jpeg_is_read_row_by_row() {
        // Smooth, or little would be left of it.
        let soft = |at: u32| (128.0 + 100.0 * (f64::from(at) / 40.0).sin()) as u8;
        let image = image::RgbImage::from_fn(70, 600, |x, y| image::Rgb([soft(x), soft(y), soft(x + y)]));
        let mut bytes = Cursor::new(Vec::new());
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 98);
        image.write_with_encoder(encoder).unwrap();
        let bytes = bytes.into_inner();
        let read = copy(&bytes).unwrap();
        assert_eq!((read.width, read.height), (70, 600));
        let most = read.pixels.iter().zip(image.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most < Some(12), "{most:?}");
        for share in [2, 3, 20] {
            let problem = copy(&bytes[..bytes.len() - bytes.len() / share]).unwrap_err();
            assert!(problem.to_string().contains("slide.tif"), "{problem}");
        }
    }

    #[test]
    fn what_is_no_image_or_cut_off_is_named() {
        let problem = |bytes: &[u8]| copy(bytes).unwrap_err().to_string();
        assert!(problem(b"no image at all").contains("cannot read the image"));
        let mut whole = Cursor::new(Vec::new());
        TiffEncoder::new(&mut whole)
            .unwrap()
            .write_image::<colortype::RGB8>(40, 30, &pixels(40, 30, 3))
            .unwrap();
        for share in [3, 2] {
            let bytes = &whole.get_ref()[..whole.get_ref().len() / share];
            assert!(problem(bytes).contains("slide.tif"), "{}", problem(bytes));
        }
    }
}
