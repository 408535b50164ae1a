//! Graph attention: what a neighbour weighs depends on both ends of the edge.

use std::sync::Arc;

use dfdx::prelude::*;
use rand::Rng;
use rayon::prelude::*;

use crate::{
    op::{Back, Shared, Step, on_tape},
    params::{ParamId, Params},
    resident::Dims,
    scratch::Scratch,
    sparse::{ROWS, Sparse, add_scaled},
    tensor::{Matrix, Source, add_all, gradient_mut},
    weights::Weights,
};

/// Slope of LeakyReLU below 0, that of the paper and all libraries.
const SLOPE: f32 = 0.2;

/// GAT (Veličković et al. 2018), its first version: with `h = W x`, a node's weight in another's sum is the softmax over that one's
/// edges of `LeakyReLU(aₛ · hⱼ + aₜ · hᵢ)`; the heads' sums lie side by side, and `b` is added. STAGATE has a sigmoid for the
/// LeakyReLU. Without dropout.
#[derive(Clone, Copy, Debug)]
pub struct GraphAttention {
    /// Columns of its input.
    pub inputs: usize,
    /// Columns of its output: of all heads together.
    pub outputs: usize,
    /// How many sums there are.
    pub heads: usize,
    /// `W`.
    pub weight: ParamId,
    /// `aₛ`.
    pub source: ParamId,
    /// `aₜ`.
    pub target: ParamId,
    /// `b`.
    pub bias: ParamId,
}

impl GraphAttention {
    /// Adds `NAME.lin.weight`, `NAME.att_src`, `NAME.att_dst` and `NAME.bias` to `params`, as PyTorch Geometric's `GATConv` calls
    /// them. `outputs` are those of all heads together.
    ///
    /// # Panics
    /// If the outputs cannot be shared out among the heads.
    pub fn new(
        params: &mut Params,
        name: &str,
        inputs: usize,
        (outputs, heads): (usize, usize),
        rng: &mut impl Rng,
    ) -> Self {
        assert!(heads > 0 && outputs.is_multiple_of(heads), "outputs of all heads");
        let width = outputs / heads;
        let weight = params.weight(format!("{name}.lin.weight"), vec![outputs, inputs], inputs, rng);
        let mut vector =
            |end: &str| params.weight(format!("{name}.att_{end}"), vec![1, heads, width], width, rng);
        let [source, target] = ["src", "dst"].map(&mut vector);
        let bias = params.bias(format!("{name}.bias"), outputs, inputs, rng);
        Self { inputs, outputs, heads, weight, source, target, bias }
    }

    /// Nodes x inputs to nodes x outputs. Of the edges only their being there counts; a node without one, itself included, gets
    /// the bias.
    ///
    /// # Panics
    /// If `x` has not as many columns as the layer has inputs, or not as many rows as the graph has nodes.
    pub fn forward<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Matrix<T>,
        source: Source,
    ) -> Matrix<T> {
        let (rows, columns) = *x.shape();
        let run = |x| self.run(params, edges, x, Dims::rows(rows, columns));
        on_tape(x, source, run, |dims| (dims.items, dims.channels))
    }

    pub(crate) fn run(&self, params: &Params, edges: &Arc<Sparse>, x: Shared, dims: Dims) -> Step {
        let Self { inputs, outputs, .. } = *self;
        assert_eq!(dims.channels, inputs, "columns of the input of a graph attention");
        edges.check_nodes(dims.items);
        let nodes = dims.items;
        let weights = Weights::new(params, (self.weight, self.bias));
        let vectors = [self.source, self.target].map(|id| params[id].shared());
        let keys = [self.source, self.target].map(|id| params[id].key.clone());
        let step = Attended::new(edges, self.heads, weights.project(&x, nodes), vectors);
        let mut y = weights.bias_rows(nodes);
        step.add_sums(&mut y);
        let back: Back = Box::new(move |dy, gradients, wanted| {
            weights.bias_back(gradients, &dy)?;
            let mut dh = Scratch::zeros(nodes * outputs);
            let by_vectors = step.back(&dy, &mut dh);
            for (key, parts) in keys.iter().zip(&by_vectors) {
                add_all(gradient_mut(gradients, key)?, parts);
            }
            weights.project_back(gradients, &dh, &x)?;
            drop(x);
            Ok(wanted.product(nodes * inputs, |dx, start| weights.by_input(&dh, start, dx)))
        });
        Step { values: y.into(), dims: Dims { channels: outputs, ..dims }, back }
    }
}

/// What was attended to, kept for the gradient.
struct Attended {
    edges: Arc<Sparse>,
    heads: usize,
    width: usize,
    /// Nodes x heads x width.
    h: Scratch,
    /// `aₛ` and `aₜ`: heads x width.
    vectors: [Arc<Vec<f32>>; 2],
    /// Whether the score is above 0: edges x heads, in the order of rows.
    above: Vec<bool>,
    /// What each edge weighs: edges x heads.
    shares: Vec<f32>,
}

impl Attended {
    fn new(edges: &Arc<Sparse>, heads: usize, h: Scratch, vectors: [Arc<Vec<f32>>; 2]) -> Self {
        let width = vectors[0].len() / heads;
        let mut this = Self {
            edges: Arc::clone(edges),
            heads,
            width,
            h,
            vectors,
            above: Vec::new(),
            shares: Vec::new(),
        };
        let [of_source, of_target] = this.vectors.each_ref().map(|vector| this.dots(vector));
        let parts = edges.gather(|node, (above, shares): &mut (Vec<bool>, Vec<f32>)| {
            let first = shares.len();
            for (_, other) in edges.by_row.entries(node) {
                for head in 0..heads {
                    let score = of_source[other * heads + head] + of_target[node * heads + head];
                    above.push(score > 0.0);
                    shares.push(if score > 0.0 { score } else { SLOPE * score });
                }
            }
            (0..heads).for_each(|head| softmax(&mut shares[first..], heads, head));
        });
        for (above, shares) in parts {
            this.above.extend(above);
            this.shares.extend(shares);
        }
        this
    }

    /// The product of each node's part of each head with the head's vector: nodes x heads.
    fn dots(&self, vector: &[f32]) -> Vec<f32> {
        let dot = |(part, vector): (&[f32], &[f32])| part.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
        let of_node = |h: &[f32]| -> Vec<f32> {
            h.chunks_exact(self.width).zip(vector.chunks_exact(self.width)).map(dot).collect()
        };
        self.h.par_chunks(self.heads * self.width).with_min_len(ROWS).flat_map_iter(of_node).collect()
    }

    fn head<'a>(&self, values: &'a [f32], node: usize, head: usize) -> &'a [f32] {
        let first = (node * self.heads + head) * self.width;
        &values[first..first + self.width]
    }

    /// Adds the weighted sums: nodes x outputs.
    fn add_sums(&self, sums: &mut [f32]) {
        let nodes = sums.par_chunks_mut(self.heads * self.width).enumerate().with_min_len(ROWS);
        nodes.for_each(|(node, sums)| {
            for (place, other) in self.edges.by_row.entries(node) {
                for (head, sums) in sums.chunks_exact_mut(self.width).enumerate() {
                    add_scaled(sums, self.shares[place * self.heads + head], self.head(&self.h, other, head));
                }
            }
        });
    }

    /// Adds the gradient by `h`, from that by the sums; gives those by both vectors, in parts.
    fn back(&self, dy: &[f32], dh: &mut [f32]) -> [Vec<Vec<f32>>; 2] {
        let (heads, width) = (self.heads, self.width);
        // By the scores before LeakyReLU: edges x heads; and their sums over the edges to a node, and from a node.
        let by_scores: Vec<f32> =
            self.edges.gather(|node, part| self.back_to_scores(dy, node, part)).concat();
        let over = |lists: &crate::sparse::Lists, place: &(dyn Fn(usize) -> usize + Sync)| -> Vec<f32> {
            let sum = |(node, sums): (usize, &mut [f32])| {
                for at in lists.places(node) {
                    add_scaled(sums, 1.0, &by_scores[place(at) * heads..(place(at) + 1) * heads]);
                }
            };
            let mut sums = vec![0.0; lists.len() * heads];
            sums.par_chunks_mut(heads).enumerate().with_min_len(ROWS).for_each(sum);
            sums
        };
        let of_target = over(&self.edges.by_row, &|at| at);
        let of_source = over(&self.edges.by_column, &|at| self.edges.place[at]);

        let nodes = dh.par_chunks_mut(heads * width).enumerate().with_min_len(ROWS);
        nodes.for_each(|(node, dh)| {
            for (head, dh) in dh.chunks_exact_mut(width).enumerate() {
                for (at, target) in self.edges.by_column.entries(node) {
                    let share = self.shares[self.edges.place[at] * heads + head];
                    add_scaled(dh, share, self.head(dy, target, head));
                }
                for (slopes, vector) in [&of_source, &of_target].into_iter().zip(&self.vectors) {
                    add_scaled(dh, slopes[node * heads + head], &vector[head * width..(head + 1) * width]);
                }
            }
        });
        [&of_source, &of_target].map(|slopes| {
            self.edges.gather(|node, sums: &mut Vec<f32>| {
                sums.resize(heads * width, 0.0);
                for (head, sums) in sums.chunks_exact_mut(width).enumerate() {
                    add_scaled(sums, slopes[node * heads + head], self.head(&self.h, node, head));
                }
            })
        })
    }

    /// The gradient by the scores of a node's edges: through the sum, the softmax and LeakyReLU.
    fn back_to_scores(&self, dy: &[f32], node: usize, part: &mut Vec<f32>) {
        let (heads, first) = (self.heads, part.len());
        let slope = |other: usize, head: usize| -> f32 {
            let (dy, h) = (self.head(dy, node, head), self.head(&self.h, other, head));
            dy.iter().zip(h).map(|(a, b)| a * b).sum()
        };
        for (_, other) in self.edges.by_row.entries(node) {
            part.extend((0..heads).map(|head| slope(other, head)));
        }
        let entries = self.edges.by_row.places(node);
        let shares = &self.shares[entries.start * heads..entries.end * heads];
        let above = &self.above[entries.start * heads..entries.end * heads];
        let slopes = &mut part[first..];
        for head in 0..heads {
            let of_head = || (head..shares.len()).step_by(heads);
            let mean: f32 = of_head().map(|at| shares[at] * slopes[at]).sum();
            for at in of_head() {
                let leak = if above[at] { 1.0 } else { SLOPE };
                slopes[at] = shares[at] * (slopes[at] - mean) * leak;
            }
        }
    }
}

/// The softmax over a head's scores, in place of them.
pub(crate) fn softmax(scores: &mut [f32], heads: usize, head: usize) {
    let highest = scores.iter().skip(head).step_by(heads).copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut().skip(head).step_by(heads) {
        *score = (*score - highest).exp();
        sum += *score;
    }
    scores.iter_mut().skip(head).step_by(heads).for_each(|share| *share /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Linear,
        gradcheck::{check, rng, wave},
        sparse::tests::edges,
        tensor::{self, values},
    };

    /// The definition, with all pairs of nodes: those without an edge have the score −∞.
    #[test]
    fn is_softmax_attention_over_a_dense_matrix() {
        let (mut params, edges) = (Params::default(), edges());
        let layer = GraphAttention::new(&mut params, "l", 5, (6, 2), &mut rng());
        let x = wave((7, 5));
        let found = values(&layer.forward(&params, &edges, x.clone(), Source::Data));
        let linear = Linear { inputs: 5, outputs: 6, weight: layer.weight, bias: layer.bias };
        let mut h = values(&linear.forward(&params, x, Source::Data));
        h.chunks_exact_mut(6).for_each(|row| add_scaled(row, -1.0, &params[layer.bias].values()));
        let [source, target, bias] = [layer.source, layer.target, layer.bias].map(|id| params[id].values());
        assert_eq!(params[layer.source].shape, [1, 2, 3]);
        for node in 0..7 {
            for head in 0..2 {
                let part = |node: usize| &h[node * 6 + head * 3..][..3];
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                let score = |other: usize| {
                    let score = dot(part(other), &source[head * 3..][..3])
                        + dot(part(node), &target[head * 3..][..3]);
                    score.max(0.2 * score).exp()
                };
                let near: Vec<usize> = edges.by_row.entries(node).map(|(_, other)| other).collect();
                let scores: Vec<f32> =
                    (0..7).map(|other| if near.contains(&other) { score(other) } else { 0.0 }).collect();
                let sum: f32 = scores.iter().sum::<f32>().max(1e-30);
                for dim in 0..3 {
                    let wanted: f32 = bias[head * 3 + dim]
                        + (0..7).map(|other| scores[other] / sum * part(other)[dim]).sum::<f32>();
                    let found = found[node * 6 + head * 3 + dim];
                    assert!((found - wanted).abs() < 1e-5, "{node} {head} {dim}: {found} {wanted}");
                }
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for heads in [1, 3] {
            let (mut params, edges) = (Params::default(), edges());
            let layer = GraphAttention::new(&mut params, "l", 4, (6, heads), &mut rng());
            check(&params, wave((7, 4)), |params, x| layer.forward(params, &edges, x, Source::Op));
        }
    }

    #[test]
    fn high_scores_do_not_overflow() {
        let (mut params, edges) = (Params::default(), edges());
        let layer = GraphAttention::new(&mut params, "l", 4, (4, 1), &mut rng());
        let x = tensor::tensor(values(&wave((7, 4))).iter().map(|value| 1e4 * value).collect(), (7, 4));
        assert!(values(&layer.forward(&params, &edges, x, Source::Data)).iter().all(|y| y.is_finite()));
    }
}
