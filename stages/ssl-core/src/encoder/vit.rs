//! ViT (Dosovitskiy et al. 2021), with fixed positions and the mean of its tokens in place of a class token, as MAE (He et al.
//! 2022) has both: so any of its tokens may be left out.

use rand::Rng;
use restage_nn::{Attention, Layer, LayerNorm, Linear, Network, Params, PatchEmbed};
use restage_stage::{Error, Result};

pub(super) fn patch() -> usize {
    8
}

pub(super) fn width() -> usize {
    192
}

pub(super) fn depth() -> usize {
    6
}

pub(super) fn heads() -> usize {
    3
}

/// How many times as wide as a token the middle of a block's second half is.
const EXPANSION: usize = 4;

/// Refuses sizes that no transformer has; `name` is the param that holds them.
pub(crate) fn validate(name: &str, (width, depth, heads): (usize, usize, usize)) -> Result<()> {
    validate_blocks(name, depth, heads)?;
    if !(4..=1 << 14).contains(&width) || !width.is_multiple_of(4) || !width.is_multiple_of(heads) {
        return Err(Error::invalid(format!(
            "`{name}.width` must be a multiple of 4, for positions, and of its {heads} `heads`, not {width}"
        )));
    }
    Ok(())
}

/// The same of what tokens without places have too.
pub(super) fn validate_blocks(name: &str, depth: usize, heads: usize) -> Result<()> {
    if !(1..=64).contains(&depth) {
        return Err(Error::invalid(format!("`{name}.depth` must be from 1 to 64 blocks, not {depth}")));
    }
    if !(1..=64).contains(&heads) {
        return Err(Error::invalid(format!("`{name}.heads` must be from 1 to 64, not {heads}")));
    }
    Ok(())
}

/// Squares of patches as tokens, blocks, a layer norm; parameters as timm's `vit` names them, but for a class token and positions,
/// which it has not.
pub(super) fn layers(
    params: &mut Params,
    name: &str,
    patch: usize,
    (width, depth, heads): (usize, usize, usize),
    rng: &mut impl Rng,
) -> Vec<Layer> {
    let embed = PatchEmbed::new(params, &format!("{name}.patch_embed.proj"), 3, (patch, width), rng);
    let mut made = vec![Layer::PatchEmbed(embed)];
    made.extend(blocks(params, &format!("{name}.blocks"), (width, depth, heads), rng));
    made.push(Layer::LayerNorm(LayerNorm::new(params, &format!("{name}.norm"), width)));
    made
}

/// Blocks that normalise before what they do: attention among the tokens, then two layers with GELU on each, both beside a shortcut.
pub(crate) fn blocks(
    params: &mut Params,
    name: &str,
    (width, depth, heads): (usize, usize, usize),
    rng: &mut impl Rng,
) -> Vec<Layer> {
    let mut block = |number: usize| {
        let at = |layer: &str| format!("{name}.{number}.{layer}");
        let among = vec![
            Layer::LayerNorm(LayerNorm::new(params, &at("norm1"), width)),
            Layer::Attention(Attention::new(params, &at("attn"), width, heads, rng)),
        ];
        let among = Layer::Residual { body: Network(among), shortcut: Network::default() };
        [among, alone(params, &format!("{name}.{number}"), width, rng)]
    };
    (0..depth).flat_map(&mut block).collect()
}

/// The second half of the block of that name: two layers with GELU on each token, beside a shortcut.
pub(super) fn alone(params: &mut Params, block: &str, width: usize, rng: &mut impl Rng) -> Layer {
    let at = |layer: &str| format!("{block}.{layer}");
    let body = vec![
        Layer::LayerNorm(LayerNorm::new(params, &at("norm2"), width)),
        Layer::Linear(Linear::new(params, &at("mlp.fc1"), width, EXPANSION * width, rng)),
        Layer::Gelu,
        Layer::Linear(Linear::new(params, &at("mlp.fc2"), EXPANSION * width, width, rng)),
    ];
    Layer::Residual { body: Network(body), shortcut: Network::default() }
}
