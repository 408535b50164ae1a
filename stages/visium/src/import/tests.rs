//! Tables that anndata wrote, in every container, are the same table.

use std::path::Path;

use restage_stage::artifact::Artifact;
use serde_json::{Value, json};

use super::*;
use crate::python_test::python;

const TABLES: &str = r#"
import anndata as ad, numpy as np, pandas as pd, scipy.sparse as sp
a = ad.AnnData(sp.random(20, 12, .3, format="csr", random_state=0, dtype="float32"))
a.X.data[:] = np.arange(a.X.nnz) % 9 + 1
a.obs_names = [f"s{i}" for i in range(20)]
a.var_names = [f"g{i % 11}" for i in range(12)]
a.obs["region"] = pd.Categorical(["b", "a"] * 9 + ["undetermined", None], categories=["b", "a", "undetermined"])
a.obs["n"] = np.arange(20); a.obs["f"] = np.arange(20) / 3; a.obs["ok"] = [True, False] * 10
a.obs["txt"] = [f"t{i}" for i in range(20)]
a.obs["maybe"] = pd.array([1, None] * 10, dtype="Int64")
a.obsm["spatial"] = np.arange(40.).reshape(20, 2)
image = (np.arange(30 * 40 * 3) % 256).astype("uint8").reshape(30, 40, 3)
a.uns["spatial"] = {"lib": {"images": {"hires": image.astype("float32") / 255, "lowres": image[:10, :12].copy()},
  "scalefactors": {"tissue_hires_scalef": .3, "tissue_lowres_scalef": .1, "spot_diameter_fullres": 10., "fiducial_diameter_fullres": 12.}, "metadata": {}}}
a.layers["counts"] = a.X * 2
a.raw = a
a.write_h5ad("plain.h5ad")
a.write_h5ad("gzip.h5ad", compression="gzip")
for version in [2, 3]:
    ad.settings.zarr_write_format = version
    a.write_zarr(f"v{version}.zarr")
dense = a.copy(); dense.X = a.X.toarray(); dense.write_h5ad("dense.h5ad")
csc = a.copy(); csc.X = a.X.tocsc(); csc.write_h5ad("csc.h5ad"); csc.write_zarr("csc.zarr")
bare = ad.AnnData(sp.csr_matrix((3, 2), dtype="float32")); bare.write_h5ad("bare.h5ad")
"#;

fn import(folder: &Path, file: &str, more: Value) -> Result<Section> {
    let mut params = json!({"path": folder.join(file), "section": "S"});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    read(&serde_json::from_value(params).unwrap())
}

#[test]
fn what_anndata_wrote_is_read_from_any_container() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(()) = python(folder, TABLES) else { return };
    let regions = || json!({"regions": "region"});
    let first = import(folder, "plain.h5ad", regions()).unwrap();
    let Section { table, labels, .. } = &first;
    assert_eq!((table.n_spots(), table.n_genes(), table.x.data.len()), (20, 12, 72));
    assert_eq!((table.obs.index[3].as_str(), table.var.index[11].as_str()), ("S_s3", "g0-1"));
    assert_eq!(table.spatial[2], [4.0, 5.0]);
    assert_eq!(table.obs.column("n"), Some(&Column::Int((0..20).collect())));
    assert!(matches!(table.obs.column("ok"), Some(Column::Bool(values)) if values[0] && !values[1]));
    assert!(matches!(table.obs.column("maybe"), Some(Column::Float(values)) if values[1].is_nan()));
    assert_eq!(table.obs.column("region"), None);
    assert_eq!(labels.regions[1].as_deref(), Some("a"));
    assert_eq!((&labels.regions[18], &labels.regions[19]), (&None, &None));
    let library = &table.libraries["S"];
    assert_eq!(library.scale_factors.tissue_hires_scalef, Some(0.3));
    assert_eq!(library.images["hires"].pixels, (0..3600).map(|byte| (byte % 256) as u8).collect::<Vec<_>>());
    assert_eq!((library.images["lowres"].height, library.images["lowres"].width), (10, 12));

    for file in ["gzip.h5ad", "v2.zarr", "v3.zarr", "dense.h5ad", "csc.h5ad", "csc.zarr"] {
        let other = import(folder, file, regions()).unwrap();
        // NaN is no equal of itself.
        let comparable = |mut table: Table| {
            table.obs.columns.retain(|(name, _)| name != "maybe");
            table
        };
        assert!(comparable(other.table) == comparable(table.clone()), "{file}");
        assert_eq!(&other.labels, labels, "{file}");
    }
    let layer = import(folder, "v2.zarr", json!({"layer": "counts"})).unwrap().table;
    assert_eq!(layer.x.data[5], 2.0 * table.x.data[5]);
    assert!(import(folder, "plain.h5ad", json!({"layer": "raw"})).unwrap().table.x == table.x);
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("none.h5ad"), "nothing").unwrap();
    let problem = |file: &str, more: Value| import(folder, file, more).err().unwrap().to_string();
    assert!(problem("none.h5ad", json!({})).contains("none.h5ad as HDF5"));
    let Some(()) = python(folder, TABLES) else { return };
    assert!(problem("bare.h5ad", json!({})).contains("has no coordinates at `/obsm/spatial`"));
    assert!(problem("v3.zarr", json!({"layer": "x"})).contains("has no `/layers/x`"));
    assert!(problem("v3.zarr", json!({"regions": "x"})).contains("is no column of `obs`"));
}

/// A section of 20 spots in SpatialData: shapes at twice the image's scale, in both containers.
const SECTIONS: &str = r#"
import anndata as ad, geopandas as gpd, numpy as np, pandas as pd, scipy.sparse as sp, spatialdata as sd, warnings
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, Sequence, Translation
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
pixels = rng.integers(0, 255, (3, 300, 401), dtype="uint8")
pixels.transpose(1, 2, 0).tofile("pixels.raw")
xy = np.arange(40.).reshape(20, 2) * 10 + 5
def make(with_coordinates, to, offset=0):
    a = ad.AnnData(sp.random(20, 12, .3, format="csr", random_state=0, dtype="float32"))
    a.obs_names = [f"s{i}" for i in range(20)]
    a.obs["region"] = pd.Categorical(["spots"] * 20)
    a.obs["spot_id"] = np.arange(20)[::-1] + offset
    if with_coordinates: a.obsm["spatial"] = xy[::-1].copy()
    shapes = ShapesModel.parse(xy, geometry=0, radius=6., index=np.arange(20) + offset, transformations=to)
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], scale_factors=[2],
      transformations={"global": Scale([4., 4.], axes=("x", "y")), "other": Identity()})
    turned = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"global": Translation([90., 0.], axes=("x", "y"))})
    table = TableModel.parse(a, region="spots", region_key="region", instance_key="spot_id")
    return sd.SpatialData(images={"he": image, "moved": turned}, shapes={"spots": shapes}, tables={"table": table})
own = make(True, {"global": Identity()})
far = make(False, {"global": Sequence([Scale([2., 2.], axes=("x", "y")), Translation([3., 1.], axes=("x", "y"))])}, offset=7)
own.write("own_v3.zarr"); far.write("far_v3.zarr")
from spatialdata._io.format import SpatialDataContainerFormatV01
for name, s in [("own_v2.zarr", own), ("far_v2.zarr", far)]:
    s.write(name, sdata_formats=SpatialDataContainerFormatV01())
"#;

#[test]
fn what_spatialdata_wrote_is_read_from_both_containers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(()) = python(folder, SECTIONS) else { return };
    let pixels = std::fs::read(folder.join("pixels.raw")).unwrap();
    for version in ["v3", "v2"] {
        for (kind, scale, diameter, third) in
            [("own", 0.25, 12.0, [345.0, 355.0]), ("far", 0.25, 24.0, [693.0, 711.0])]
        {
            let file = format!("{kind}_{version}.zarr");
            let Section { table, image, .. } = import(folder, &file, json!({})).unwrap();
            // The rows of `obs` are in another order than the shapes.
            assert_eq!(table.spatial[2], third, "{file}");
            assert_eq!(table.obs.column("spot_id"), None);
            let image = image.unwrap();
            image.copy(&folder.join(format!("{file}.image")), &crate::stages_test::context(folder)).unwrap();
            let image = Image::read(&folder.join(format!("{file}.image"))).unwrap();
            assert_eq!((image.height, image.width, image.scale), (300, 401, scale), "{file}");
            assert_eq!(image.spot_diameter_fullres, diameter, "{file}");
            assert!(image.pixels == pixels, "{file}");
            let library = &table.libraries["S"];
            assert_eq!(library.scale_factors.spot_diameter_fullres, diameter);
            assert!(library.images["hires"].pixels == pixels);
        }
    }
    let problem = import(folder, "own_v3.zarr", json!({"image": "moved"})).err().unwrap().chain().join(": ");
    assert!(problem.contains("is turned or shifted against the spots"), "{problem}");
}

/// What we write as SpatialData comes back as it was.
#[test]
fn our_own_section_comes_back() {
    use crate::{simulate::Simulate, stages_test::run};
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let outputs = ["table", "image", "labels", "section"];
    run::<Simulate>(folder, json!({"section": "S", "rows": 6, "cols": 6, "genes": 30}), &[], &outputs);
    let at = |place: &str| folder.join("simulate").join(place);
    let params = json!({"path": at("section"), "section": "S"});
    run::<Import>(folder, params, &[], &outputs);
    let (wanted, found) =
        (Table::read(&at("table")).unwrap(), Table::read(&folder.join("import/table")).unwrap());
    assert!(found.x == wanted.x && found.var == wanted.var && found.spatial == wanted.spatial);
    assert!(found.libraries == wanted.libraries);
    assert_eq!(found.obs.index, wanted.obs.index);
    for (name, column) in &wanted.obs.columns {
        assert_eq!(found.obs.column(name), Some(column), "{name}");
    }
    assert_eq!(found.obs.columns.len(), wanted.obs.columns.len());
    assert!(Image::read(&at("image")).unwrap() == Image::read(&folder.join("import/image")).unwrap());
}

/// What of `s.h5ad` differs from `plain.h5ad` is how its writer chose to put it.
const OTHERWISE: &str = r#"
import anndata as ad, h5py, numpy as np, pandas as pd, scipy.sparse as sp
a = ad.AnnData(sp.csr_matrix((np.arange(240) % 7 == 0).reshape(20, 12).astype("float32")))
a.obs_names = [f"s{i}" for i in range(20)]
a.obsm["spatial"] = np.arange(40.).reshape(20, 2)
a.obs["sample"] = pd.Categorical(["S", "T"] * 10)
a.write_h5ad("plain.h5ad")
a.write_h5ad("lzf.h5ad", compression="lzf")
for dtype in ["bool", "uint64", "float16", "int8"]:
    b = a.copy(); b.X = a.X.toarray().astype(dtype)
    b.write_h5ad(f"{dtype}.h5ad"); b.write_zarr(f"{dtype}.zarr")
frame = a.copy(); frame.obsm["spatial"] = pd.DataFrame(a.obsm["spatial"], index=a.obs_names, columns=["x", "y"])
frame.write_h5ad("frame.h5ad")
lost = a.copy(); lost.obsm["spatial"][[3, 5], 1] = np.nan; lost.write_h5ad("lost.h5ad")
nan = a.copy(); nan.X[2, 9] = np.nan; nan.write_h5ad("nan.h5ad")
ours = a.copy(); ours.obs["section"] = a.obs["sample"]; ours.obs["patient"] = pd.Categorical(["P", "Q"] * 10)
ours.uns["spatial"] = {"T": {"images": {"hires": np.zeros((9, 9, 3), "uint8")}, "scalefactors": {"tissue_hires_scalef": .2, "spot_diameter_fullres": 1.}}}
ours.uns["scalefactors"] = {"S": {"spot_diameter_fullres": 3.}}
ours.write_h5ad("ours.h5ad")
# As anndata 0.7 put categories.
with h5py.File("plain.h5ad") as new, h5py.File("old.h5ad", "w") as old:
    for name in new: new.copy(name, old)
    old["obs"].attrs["encoding-version"] = "0.1.0"
    codes = old["obs/sample/codes"][:]
    del old["obs/sample"]
    old["obs/__categories/sample"] = np.array(["S", "T"], dtype=h5py.string_dtype())
    old["obs/sample"] = codes
    old["obs/sample"].attrs["categories"] = old["obs/__categories/sample"].ref
assert list(ad.read_h5ad("old.h5ad").obs["sample"]) == ["S", "T"] * 10
"#;

#[test]
fn what_other_writers_chose_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(()) = python(folder, OTHERWISE) else { return };
    let plain = import(folder, "plain.h5ad", json!({})).unwrap().table;
    assert_eq!((plain.n_spots(), plain.x.data.len()), (20, 35));
    for file in ["lzf.h5ad", "bool", "uint64", "float16", "int8", "frame.h5ad", "old.h5ad"] {
        let containers = if file.contains('.') {
            vec![file.into()]
        } else {
            vec![format!("{file}.h5ad"), format!("{file}.zarr")]
        };
        for file in containers {
            assert!(import(folder, &file, json!({})).unwrap().table == plain, "{file}");
        }
    }
    let problem = |file: &str, more: Value| import(folder, file, more).err().unwrap().to_string();
    assert!(problem("nan.h5ad", json!({})).contains("holds NaN in `/X`, for gene `9` of spot `s2`"));
    let lost = problem("lost.h5ad", json!({}));
    assert!(lost.contains("has no coordinates of spot `s3`, nor of 1 others, at `/obsm/spatial`"), "{lost}");

    let half = import(folder, "plain.h5ad", json!({"section_column": "sample"})).unwrap().table;
    assert_eq!((half.n_spots(), half.obs.index[1].as_str(), half.spatial[1]), (10, "S_s2", [4.0, 5.0]));
    assert!(half.x.row(1) == plain.x.row(2));
    let several = problem("ours.h5ad", json!({}));
    assert!(several.contains("has spots of the sections S, T: set `section_column: section`"), "{several}");
    // Each has its own patient, library and image.
    for (section, patient, diameter, images) in [("S", "P", 3.0, 0), ("T", "Q", 1.0, 1)] {
        let more = json!({"section_column": "section", "section": section});
        let table = import(folder, "ours.h5ad", more).unwrap().table;
        let library = &table.libraries[section];
        assert_eq!((table.n_spots(), table.patient(3)), (10, Some(patient)));
        assert_eq!((library.scale_factors.spot_diameter_fullres, library.images.len()), (diameter, images));
    }
    let other = import(folder, "ours.h5ad", json!({"section_column": "section", "patient": "Z"})).unwrap();
    assert_eq!(other.table.patient(0), Some("Z"));
    let none = problem("plain.h5ad", json!({"section_column": "sample", "section": "U"}));
    assert!(none.ends_with("has `U` as its sample: it has S, T"), "{none}");
    assert!(problem("plain.h5ad", json!({"section_column": "x"})).contains("is no column of `obs`"));
}
