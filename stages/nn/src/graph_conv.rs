//! Graph convolution.

use std::sync::Arc;

use dfdx::prelude::*;
use rand::Rng;

use crate::{
    op::{Back, Shared, Step, Wanted, on_tape},
    params::{ParamId, Params},
    resident::Dims,
    scratch::Scratch,
    sparse::Sparse,
    tensor::{Matrix, Source},
    weights::Weights,
};

/// `Â X Wᵀ + b` (Kipf & Welling 2017), with `Â` as it is given: what edges weigh is not this layer's affair.
#[derive(Clone, Copy, Debug)]
pub struct GraphConv {
    /// Columns of its input.
    pub inputs: usize,
    /// Columns of its output.
    pub outputs: usize,
    /// `W`.
    pub weight: ParamId,
    /// `b`.
    pub bias: ParamId,
}

impl GraphConv {
    /// Adds `NAME.lin.weight` and `NAME.bias` to `params`, as PyTorch Geometric's `GCNConv` calls them.
    pub fn new(params: &mut Params, name: &str, inputs: usize, outputs: usize, rng: &mut impl Rng) -> Self {
        let weight = params.weight(format!("{name}.lin.weight"), vec![outputs, inputs], inputs, rng);
        let bias = params.bias(format!("{name}.bias"), outputs, inputs, rng);
        Self { inputs, outputs, weight, bias }
    }

    /// Whether the sum over neighbours comes before the weights: where there is less to sum.
    pub fn sums_first(&self) -> bool {
        self.outputs > self.inputs
    }

    /// Nodes x inputs to nodes x outputs.
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
        assert_eq!(dims.channels, inputs, "columns of the input of a graph convolution");
        edges.check_nodes(dims.items);
        let (nodes, edges) = (dims.items, Arc::clone(edges));
        let weights = Weights::new(params, (self.weight, self.bias));
        let dims = Dims { channels: outputs, ..dims };
        if self.sums_first() {
            let mut sums = Scratch::zeros(nodes * inputs);
            edges.add_product(&x, inputs, &mut sums);
            drop(x);
            let y = weights.apply(&sums, nodes);
            let back: Back = Box::new(move |dy, gradients, wanted| {
                weights.back(gradients, &dy, &sums)?;
                if let Wanted::Nothing = wanted {
                    return Ok(None);
                }
                Ok(wanted.of(edges.product_back(&weights.slopes(&dy), inputs)))
            });
            return Step { values: y.into(), dims, back };
        }
        let mut y = weights.bias_rows(nodes);
        edges.add_product(&weights.project(&x, nodes), outputs, &mut y);
        let back: Back = Box::new(move |dy, gradients, wanted| {
            weights.bias_back(gradients, &dy)?;
            let dy = edges.product_back(&dy, outputs);
            weights.project_back(gradients, &dy, &x)?;
            drop(x);
            Ok(wanted.product(nodes * inputs, |dx, start| weights.by_input(&dy, start, dx)))
        });
        Step { values: y.into(), dims, back }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Linear,
        gradcheck::{check, rng, wave},
        sparse::tests::edges,
        tensor::values,
    };

    #[test]
    fn neighbours_are_summed_before_or_after_the_weights() {
        let mut params = Params::default();
        let edges = edges();
        for (inputs, outputs) in [(5, 3), (3, 5)] {
            let layer = GraphConv::new(&mut params, &format!("{inputs}"), inputs, outputs, &mut rng());
            let x = wave((7, inputs));
            let found = values(&layer.forward(&params, &edges, x.clone(), Source::Data));
            let linear = Linear { inputs, outputs, weight: layer.weight, bias: layer.bias };
            let wanted = values(&linear.forward(&params, edges.product(x), Source::Data));
            assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {wanted:?}");
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for (inputs, outputs) in [(4, 3), (3, 4)] {
            let (mut params, edges) = (Params::default(), edges());
            let layer = GraphConv::new(&mut params, "l", inputs, outputs, &mut rng());
            check(&params, wave((7, inputs)), |params, x| layer.forward(params, &edges, x, Source::Op));
        }
    }
}
