//! `cross_modal`: a spot's patch and its genes should have embeddings that find each other among all spots of the batch
//! (CLIP; Radford et al. 2021), and, where `intra` says so, two views of each modality too (ConGI; Zeng et al. 2023).

use restage_nn::{
    ParamId, Params, clip,
    dfdx::prelude::{AsArray, NoneTape, WithEmptyTape},
    nt_xent, soft_clip,
};

use crate::{
    encoder::Projector,
    params::Targets,
    train::{Memory, Objective, Step},
    views::{GeneViews, PatchViews, Views},
};

/// The objective on spots that have both: the n-th of the patches' and of the genes' are the same spot.
pub(crate) struct CrossModal<'a> {
    pub(crate) patches: PatchViews<'a>,
    pub(crate) genes: GeneViews<'a>,
    pub(crate) of_patches: Projector,
    pub(crate) of_genes: Projector,
    pub(crate) temperature: f32,
    pub(crate) targets: Targets,
    /// Weight of each modality's own contrast of two views.
    pub(crate) intra: f32,
}

impl Objective for CrossModal<'_> {
    fn items(&self) -> usize {
        self.patches.items()
    }

    fn parameters(&self) -> Vec<ParamId> {
        let encoders = [self.patches.parameters(), self.genes.parameters()];
        let projectors = [self.of_patches.parameters(), self.of_genes.parameters()];
        encoders.into_iter().chain(projectors).flatten().collect()
    }

    fn step(&self, params: &Params, _: &Memory, epoch: usize, batch: &[usize]) -> Step {
        let of_patches = |view| {
            let embeddings = self.patches.embed(params, &self.patches.draw(epoch, view, batch));
            let kept = embeddings.retaped::<NoneTape>();
            (self.of_patches.forward(params, embeddings), kept)
        };
        let of_genes = |view| {
            let embeddings = self.genes.embed(params, &self.genes.draw(epoch, view, batch));
            let kept = embeddings.retaped::<NoneTape>();
            (self.of_genes.forward(params, embeddings), kept)
        };
        let ((image, patch_embeddings), (genes, gene_embeddings)) = (of_patches(0), of_genes(0));
        let across = |a, b| match self.targets {
            Targets::Hard => clip(a, b, self.temperature),
            Targets::Soft => soft_clip(a, b, self.temperature),
        };
        let (loss, terms) = if self.intra > 0.0 {
            let between = across(image.with_empty_tape(), genes.with_empty_tape());
            let among_patches = nt_xent(image, of_patches(1).0, self.temperature);
            let among_genes = nt_xent(genes, of_genes(1).0, self.temperature);
            let terms = vec![
                ("between", between.array()),
                ("among_patches", among_patches.array()),
                ("among_genes", among_genes.array()),
            ];
            (between + among_patches * self.intra + among_genes * self.intra, terms)
        } else {
            let between = across(image, genes);
            let terms = vec![("between", between.array())];
            (between, terms)
        };
        Step { terms, of_genes: Some(gene_embeddings), ..Step::new(loss, patch_embeddings) }
    }
}
