//! Self-attention among the nodes of a graph, each of which sees its neighbours only.

use std::sync::Arc;

use dfdx::prelude::*;
use rand::Rng;
use rayon::prelude::*;

use crate::{
    graph_attention::softmax,
    linear::Linear,
    op::{Back, Shared, Step, on_tape},
    params::{ParamId, Params},
    resident::Dims,
    scratch::Scratch,
    sparse::{ROWS, Sparse, add_scaled},
    tensor::{Matrix, Source},
    weights::Weights,
};

/// [`Attention`](crate::Attention) (Vaswani et al. 2017) with a graph's edges for its mask: a node takes of those that it has edges
/// from, and of no other, as much as its query agrees with their keys. Where every node has an edge from every one, they are equal.
#[derive(Clone, Copy, Debug)]
pub struct NeighbourAttention {
    dim: usize,
    heads: usize,
    /// Weight and bias of what makes queries, keys and values.
    pub qkv: (ParamId, ParamId),
    /// Weight and bias of what joins the heads.
    pub proj: (ParamId, ParamId),
}

impl NeighbourAttention {
    /// Adds `NAME.qkv.weight`, `NAME.qkv.bias`, `NAME.proj.weight` and `NAME.proj.bias` to `params`, as
    /// [`Attention::new`](crate::Attention::new) does.
    ///
    /// # Panics
    /// If `dim` is no multiple of `heads`.
    pub fn new(params: &mut Params, name: &str, dim: usize, heads: usize, rng: &mut impl Rng) -> Self {
        assert!(heads > 0 && dim.is_multiple_of(heads), "width of an attention, a multiple of its heads");
        let mut linear = |layer: &str, outputs: usize| {
            let Linear { weight, bias, .. } =
                Linear::new(params, &format!("{name}.{layer}"), dim, outputs, rng);
            (weight, bias)
        };
        Self { dim, heads, qkv: linear("qkv", 3 * dim), proj: linear("proj", dim) }
    }

    /// Values of a node.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many heads there are.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Nodes x dim to the same. Of the edges only their being there counts; a node without one, itself included, gets the last
    /// bias.
    ///
    /// # Panics
    /// If `x` has another number of columns, or not as many rows as the graph has nodes.
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
        assert_eq!(dims.channels, self.dim, "width of the nodes of an attention");
        edges.check_nodes(dims.items);
        let (nodes, dim) = (dims.items, self.dim);
        let (qkv, proj) = (Weights::new(params, self.qkv), Weights::new(params, self.proj));
        let step = Taken::new(edges, self.heads, qkv.apply(&x, nodes), dim);
        let sums = step.sums();
        let y = proj.apply(&sums, nodes);
        let back: Back = Box::new(move |dy, gradients, wanted| {
            proj.back(gradients, &dy, &sums)?;
            drop(sums);
            let dqkv = step.back(&proj.slopes(&dy));
            drop(step);
            qkv.back(gradients, &dqkv, &x)?;
            Ok(wanted.product(nodes * dim, |dx, start| qkv.by_input(&dqkv, start, dx)))
        });
        Step { values: y.into(), dims, back }
    }
}

/// The parts of a node's row.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;

/// What was taken of whom, kept for the gradient.
struct Taken {
    edges: Arc<Sparse>,
    heads: usize,
    dim: usize,
    /// Nodes x (queries, keys, values) x heads x width of a head.
    qkv: Scratch,
    /// How much of each edge's source: edges x heads, in the order of rows.
    shares: Vec<f32>,
}

impl Taken {
    fn new(edges: &Arc<Sparse>, heads: usize, qkv: Scratch, dim: usize) -> Self {
        let mut this = Self { edges: Arc::clone(edges), heads, dim, qkv, shares: Vec::new() };
        let parts = edges.gather(|node, shares: &mut Vec<f32>| {
            let first = shares.len();
            for (_, other) in edges.by_row.entries(node) {
                let agreement = |head| dot(this.part(node, QUERY, head), this.part(other, KEY, head));
                shares.extend((0..heads).map(|head| agreement(head) * this.scale()));
            }
            (0..heads).for_each(|head| softmax(&mut shares[first..], heads, head));
        });
        this.shares = parts.concat();
        this
    }

    fn width(&self) -> usize {
        self.dim / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width() as f32).sqrt()
    }

    fn part(&self, node: usize, part: usize, head: usize) -> &[f32] {
        let first = (3 * node + part) * self.dim + head * self.width();
        &self.qkv[first..first + self.width()]
    }

    /// Nodes x dim.
    fn sums(&self) -> Scratch {
        let mut sums = Scratch::zeros(self.qkv.len() / 3);
        sums.par_chunks_mut(self.dim).enumerate().with_min_len(ROWS).for_each(|(node, sums)| {
            for (place, other) in self.edges.by_row.entries(node) {
                for (head, sums) in sums.chunks_exact_mut(self.width()).enumerate() {
                    add_scaled(sums, self.shares[place * self.heads + head], self.part(other, VALUE, head));
                }
            }
        });
        sums
    }

    /// The gradients by queries, keys and values, from those by the sums.
    fn back(&self, dy: &[f32]) -> Scratch {
        let mut dqkv = Scratch::zeros(self.qkv.len());
        let (heads, width) = (self.heads, self.width());
        let of = |node: usize, head: usize| &dy[node * self.dim + head * width..][..width];
        // By the agreements before the softmax: edges x heads.
        let slopes = self.edges.gather(|node, slopes: &mut Vec<f32>| {
            let first = slopes.len();
            for (_, other) in self.edges.by_row.entries(node) {
                slopes.extend((0..heads).map(|head| dot(of(node, head), self.part(other, VALUE, head))));
            }
            let places = self.edges.by_row.places(node);
            let (shares, slopes) =
                (&self.shares[places.start * heads..places.end * heads], &mut slopes[first..]);
            for head in 0..heads {
                let of_head = || (head..shares.len()).step_by(heads);
                let mean: f32 = of_head().map(|at| shares[at] * slopes[at]).sum();
                of_head().for_each(|at| slopes[at] = shares[at] * (slopes[at] - mean) * self.scale());
            }
        });
        let slopes = slopes.concat();
        dqkv.par_chunks_mut(3 * self.dim).enumerate().with_min_len(ROWS).for_each(|(node, dqkv)| {
            let (queries, rest) = dqkv.split_at_mut(self.dim);
            let (keys, values) = rest.split_at_mut(self.dim);
            for head in 0..heads {
                let at = head * width..(head + 1) * width;
                for (place, other) in self.edges.by_row.entries(node) {
                    let slope = slopes[place * heads + head];
                    add_scaled(&mut queries[at.clone()], slope, self.part(other, KEY, head));
                }
                for (entry, taker) in self.edges.by_column.entries(node) {
                    let place = self.edges.place[entry] * heads + head;
                    add_scaled(&mut keys[at.clone()], slopes[place], self.part(taker, QUERY, head));
                    add_scaled(&mut values[at.clone()], self.shares[place], of(taker, head));
                }
            }
        });
        dqkv
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Attention,
        gradcheck::{check, rng, wave},
        sparse::tests::edges,
        tensor::{self, values},
    };

    /// Where all see all it is the attention of sequences; where some do not, that of those that are seen.
    #[test]
    fn is_the_attention_among_those_that_are_seen() {
        let (mut params, edges) = (Params::default(), edges());
        let layer = NeighbourAttention::new(&mut params, "a", 6, 2, &mut rng());
        let mut others = Params::default();
        let dense = Attention::new(&mut others, "a", 6, 2, &mut rng());
        let saved: Vec<_> =
            params.iter().map(|param| (param.name.clone(), param.shape.clone(), param.values())).collect();
        let find = |name: &str| {
            let (_, shape, values) = saved.iter().find(|(other, ..)| other == name)?;
            Some((&shape[..], &values[..]))
        };
        others.load(find).unwrap();
        let x = values(&wave((7, 6)));
        let found = values(&layer.forward(&params, &edges, tensor::tensor(x.clone(), (7, 6)), Source::Data));
        for node in 0..7 {
            // The node first, then those that it sees: what the first takes of the others.
            let near: Vec<usize> = edges.by_row.entries(node).map(|(_, other)| other).collect();
            if !near.contains(&node) {
                continue;
            }
            let order = std::iter::once(node).chain(near.iter().copied().filter(|other| *other != node));
            let rows: Vec<f32> = order.flat_map(|other| &x[other * 6..][..6]).copied().collect();
            let tokens = tensor::tensor(rows, (1, 1, near.len(), 6));
            let wanted = values(&dense.forward(&others, tokens, Source::Data));
            for (found, wanted) in found[node * 6..][..6].iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-5, "{node}: {found} {wanted}");
            }
        }
        // Without any edge, the last bias.
        assert_eq!(found[3 * 6..][..6], find("a.proj.bias").unwrap().1[..]);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for heads in [1, 3] {
            let (mut params, edges) = (Params::default(), edges());
            let layer = NeighbourAttention::new(&mut params, "l", 6, heads, &mut rng());
            check(&params, wave((7, 6)), |params, x| layer.forward(params, &edges, x, Source::Op));
        }
    }

    #[test]
    fn high_agreements_do_not_overflow() {
        let (mut params, edges) = (Params::default(), edges());
        let layer = NeighbourAttention::new(&mut params, "l", 4, 1, &mut rng());
        let x = tensor::tensor(values(&wave((7, 4))).iter().map(|value| 1e4 * value).collect(), (7, 4));
        assert!(values(&layer.forward(&params, &edges, x, Source::Data)).iter().all(|y| y.is_finite()));
    }
}
