//! Files that Python's programs write are read as they read them. `RESTAGE_PYTHON` names a Python with anndata,
//! tifffile and their like; without it, a test says so and passes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use restage_stage::{
    Result,
    artifact::{Artifact, Image, ImageRows},
};

use crate::{
    load::{Slide, counts::Source},
    stages_test::context,
};

/// Runs a script in a folder, where there is a Python.
pub(crate) fn python(folder: &Path, script: &str) -> Option<()> {
    let Some(python) = std::env::var_os("RESTAGE_PYTHON") else {
        println!("skipped: no Python (set RESTAGE_PYTHON)");
        return None;
    };
    let output = Command::new(python).arg("-c").arg(script).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

const SLIDES: &str = r#"
import numpy as np, tifffile
y, x = np.mgrid[0:333, 0:277]
rgb = np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8)
small = rgb[::2, ::2]
def write(name, compression=None, **options):
    with tifffile.TiffWriter(name, bigtiff=options.pop("bigtiff", False)) as tif:
        tif.write(rgb, tile=(64, 48), compression=compression, subifds=1, photometric="rgb", **options)
        tif.write(small, tile=(64, 48), compression=compression, subfiletype=1, photometric="rgb")
write("deflate.tif", "deflate", predictor=True)
write("big.btf", "zlib", bigtiff=True)
write("tiles.lzw.tif", "lzw")
write("difference.lzw.tif", "lzw", predictor=True)
tifffile.imwrite("strips.lzw.tif", rgb, rowsperstrip=10, compression="lzw", photometric="rgb")
for name, order in [("wide.lzw.tif", "<"), ("wide.big-endian.lzw.tif", ">")]:
    wide = rgb.astype(np.uint16) * 257
    tifffile.imwrite(name, wide, byteorder=order, tile=(64, 48), compression="lzw", predictor=True, photometric="rgb")
planes = rgb.transpose(2, 0, 1).copy()
tifffile.imwrite("planar.lzw.tif", planes, tile=(64, 64), compression="lzw", planarconfig="separate", photometric="rgb")
write("packbits.tif", "packbits")
from PIL import Image
Image.fromarray(rgb).save("lzw.tif", compression="tiff_lzw", big_tiff=True)
tifffile.imwrite("slide.ome.tif", rgb, tile=(64, 64), metadata={"axes": "YXS"})
tifffile.imwrite("planar.tif", rgb.transpose(2, 0, 1).copy(), tile=(64, 64), planarconfig="separate", photometric="rgb")
tifffile.imwrite("colours.ome.tif", planes, tile=(64, 64), photometric="minisblack", metadata={"axes": "CYX"})
tifffile.imwrite("two.ome.tif", planes[:2], tile=(64, 64), photometric="minisblack", metadata={"axes": "CYX"})
tifffile.imwrite("zstd.tif", rgb, tile=(64, 64), compression="zstd", photometric="rgb")
tifffile.imwrite("strips.tif", rgb, rowsperstrip=10, photometric="rgb")
tifffile.imwrite("wide.tif", rgb.astype(np.uint16) * 257, tile=(64, 64), photometric="rgb")
soft = (128 + 100 * np.sin(np.stack([x, y, x + y], -1) / 40)).astype(np.uint8)
tifffile.imwrite("jpeg.tif", soft, tile=(64, 64), compression="jpeg", compressionargs={"level": 95}, photometric="rgb")
tifffile.imread("jpeg.tif").tofile("jpeg.raw")
rgb.tofile("rgb.raw")
"#;

/// Counts of two genomes, of one, and one that names a feature twice in a spot.
const GENOMES: &str = r#"
import h5py, numpy as np
def write(name, genomes, indices=(0, 2, 1)):
    with h5py.File(name, "w") as f:
        matrix = f.create_group("matrix")
        for key, values in [("data", [1, 2, 3]), ("indices", indices), ("indptr", [0, 2, 3]), ("shape", [3, 2])]:
            matrix[key] = np.array(values, "int64")
        matrix["barcodes"] = np.array(["x-1", "y-1"], "S")
        features = matrix.create_group("features")
        features["id"] = features["name"] = np.array(["a", "b", "c"], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 3, "S")
        features["genome"] = genomes
write("two.h5", np.array(["hg", "mm", "hg"], "S"))
write("variable.h5", np.array(["hg", "mm", "hg"], object))
write("one.h5", np.array(["hg", "hg", "hg"], "S"))
write("twice.h5", np.array(["hg", "hg", "hg"], "S"), (2, 2, 1))
"#;

#[test]
fn genomes_are_told_apart_where_there_are_several() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(()) = python(folder, GENOMES) else { return };
    let read = |name: &str, genome| Source::named(&folder.join(name)).unwrap().read(genome);
    for name in ["two.h5", "variable.h5"] {
        let genes = read(name, None).unwrap().genes;
        let genomes: Vec<_> = genes.categorical("genome").unwrap().iter().collect();
        assert_eq!(genomes, [Some("hg"), Some("mm"), Some("hg")], "{name}");
        assert_eq!(read(name, Some("hg")).unwrap().genes.index, ["a", "c"]);
    }
    assert_eq!(read("one.h5", None).unwrap().genes.column("genome"), None);
    let problem = read("twice.h5", None).unwrap_err().to_string();
    assert!(problem.ends_with("twice.h5 has two counts of one feature in a spot"), "{problem}");
}

const PHOTOGRAPHS: &str = r#"
import numpy as np
from PIL import Image
y, x = np.mgrid[0:533, 0:277]
rgb = (128 + 100 * np.sin(np.stack([x, y, x + y], -1) / 40)).astype(np.uint8)
for name, options in [("halved", {"subsampling": 2}), ("full", {"subsampling": 0}), ("progressive", {"progressive": True})]:
    Image.fromarray(rgb).save(f"{name}.jpg", quality=90, **options)
    np.asarray(Image.open(f"{name}.jpg")).tofile(f"{name}.raw")
Image.fromarray(rgb[..., 0]).save("gray.jpg")
np.repeat(np.asarray(Image.open("gray.jpg"))[..., None], 3, -1).tofile("gray.raw")
Image.fromarray(rgb).convert("CMYK").save("cmyk.jpg")
"#;

fn copy(folder: &Path, name: &str) -> Result<Image> {
    let slide = Slide::open(&folder.join(name)).unwrap();
    let about = Image { height: slide.height, width: slide.width, ..Image::default() };
    let target: PathBuf = folder.join(format!("{name}.zarr"));
    let mut rows = ImageRows::create(&target, &about).unwrap();
    slide.copy(&mut rows, &context(folder))?;
    rows.finish()?;
    Image::read(&target)
}

#[test]
fn tiles_strips_planes_and_pyramids_of_tifffile_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(()) = python(folder, SLIDES) else { return };
    let raw = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let wanted = raw("rgb.raw");
    for name in [
        "deflate.tif",
        "big.btf",
        "lzw.tif",
        "tiles.lzw.tif",
        "difference.lzw.tif",
        "strips.lzw.tif",
        "wide.lzw.tif",
        "wide.big-endian.lzw.tif",
        "planar.lzw.tif",
        "packbits.tif",
        "slide.ome.tif",
        "colours.ome.tif",
        "planar.tif",
        "strips.tif",
        "wide.tif",
    ] {
        let image = copy(folder, name).unwrap();
        assert_eq!((image.height, image.width), (333, 277), "{name}");
        assert!(image.pixels == wanted, "{name}");
    }
    let problem = |name: &str| match Slide::open(&folder.join(name)) {
        Ok(_) => copy(folder, name).err().unwrap().chain().join(": "),
        Err(error) => error.chain().join(": "),
    };
    assert!(
        problem("two.ome.tif").contains("it has 2 pages of one colour each"),
        "{}",
        problem("two.ome.tif")
    );
    assert!(
        problem("zstd.tif").contains("packed by deflate, LZW, PackBits or JPEG"),
        "{}",
        problem("zstd.tif")
    );
    // Decoders of JPEG may round differently in the last bits.
    let (found, wanted) = (copy(folder, "jpeg.tif").unwrap().pixels, raw("jpeg.raw"));
    let worst = found.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(found.len() == wanted.len() && worst <= Some(4), "{worst:?}");
}

#[test]
fn jpeg_has_the_pixels_that_pillow_gives() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(()) = python(folder, PHOTOGRAPHS) else { return };
    for name in ["halved", "full", "progressive", "gray"] {
        let found = copy(folder, &format!("{name}.jpg")).unwrap();
        assert_eq!((found.height, found.width), (533, 277), "{name}");
        assert!(found.pixels == std::fs::read(folder.join(format!("{name}.raw"))).unwrap(), "{name}");
    }
    let problem = copy(folder, "cmyk.jpg").unwrap_err().to_string();
    assert!(problem.contains("cmyk.jpg") && problem.contains("gray or colour"), "{problem}");
}
