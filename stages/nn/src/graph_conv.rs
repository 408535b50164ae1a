//! Graph convolution.

use std::sync::Arc;

use dfdx::prelude::*;
use rand::Rng;

use crate::{
    params::{ParamId, Params},
    project::{add_bias, project},
    sparse::Sparse,
    tensor::{Matrix, Source},
};

/// `Â X Wᵀ + b` (Kipf & Welling 2017), with `Â` as it is given: what edges weigh is not this layer's affair.
#[derive(Clone, Copy, Debug)]
pub struct GraphConv {
    inputs: usize,
    outputs: usize,
    weight: ParamId,
    bias: ParamId,
}

impl GraphConv {
    /// Adds `NAME.lin.weight` and `NAME.bias` to `params`, as PyTorch Geometric's `GCNConv` calls them.
    pub fn new(params: &mut Params, name: &str, inputs: usize, outputs: usize, rng: &mut impl Rng) -> Self {
        let weight = params.weight(format!("{name}.lin.weight"), vec![outputs, inputs], inputs, rng);
        let bias = params.bias(format!("{name}.bias"), outputs, inputs, rng);
        Self { inputs, outputs, weight, bias }
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
        let Self { inputs, outputs, weight, bias } = *self;
        // The sum over neighbours where there is less to sum.
        let y = if outputs <= inputs {
            edges.product(project(params, weight, x, source))
        } else {
            project(params, weight, edges.product(x), Source::Op)
        };
        add_bias(params, bias, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
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
            let summed = project(&params, layer.weight, edges.product(x), Source::Data);
            let wanted = values(&add_bias(&params, layer.bias, summed));
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
