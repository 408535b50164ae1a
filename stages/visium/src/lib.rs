//! Plugin `visium`: from Visium sections to what a model trains on. One file or folder per stage type; the README
//! lists their ports and params.

mod check;
mod columns;
mod concat;
mod filters;
mod fit;
mod graph;
mod hdf5;
mod image_features;
mod import;
mod import_embedding;
mod load;
mod load_arrays;
mod load_legacy;
mod lzf;
mod normalize;
mod npy;
mod patches;
mod pca;
mod qc;
mod quantile;
mod scale;
mod section;
mod simulate;
mod smooth;
mod stain;
mod stain_augment;
#[doc(hidden)]
pub mod steps;
mod text;
mod tissue_mask;
mod values;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod parity_test;
#[cfg(test)]
mod python_test;
#[cfg(test)]
mod stages_test;

restage_stage::export!("visium";
    check::Check,
    concat::Concat,
    graph::MakeGraph,
    image_features::ImageFeatures,
    import::Import,
    import_embedding::ImportEmbedding,
    load::Load,
    load_arrays::LoadArrays,
    load_legacy::LoadLegacy,
    normalize::Normalize,
    patches::MakePatches,
    pca::Pca,
    qc::Qc,
    scale::Scale,
    section::MakeSection,
    simulate::Simulate,
    smooth::Smooth,
    stain::StainNormalize,
    stain_augment::StainAugment,
    tissue_mask::TissueMask,
);
