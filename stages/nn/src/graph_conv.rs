//! Graph convolution.

use std::sync::Arc;

use dfdx::prelude::*;
use rand::Rng;

use crate::{
    params::{ParamId, Params},
    project::{Projection, add_bias},
    sparse::Sparse,
    tensor::{Matrix, Source},
};

/// `Â X Wᵀ + b` (Kipf & Welling 2017), with `Â` as it is given: what edges weigh is not this layer's affair.
#[derive(Clone, Copy, Debug)]
pub struct GraphConv {
    /// Whether it makes more of a node than it takes.
    widens: bool,
    lin: Projection,
    bias: ParamId,
}

impl GraphConv {
    /// Adds `NAME.lin.weight` and `NAME.bias` to `params`, as PyTorch Geometric's `GCNConv` calls them.
    pub fn new(params: &mut Params, name: &str, inputs: usize, outputs: usize, rng: &mut impl Rng) -> Self {
        let lin = Projection::new(params, &format!("{name}.lin"), inputs, outputs, rng);
        let bias = params.bias(format!("{name}.bias"), outputs, inputs, rng);
        Self { widens: outputs > inputs, lin, bias }
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
        // The sum over neighbours where there is less to sum.
        let y = if self.widens {
            self.lin.forward(params, edges.product(x), Source::Op)
        } else {
            edges.product(self.lin.forward(params, x, source))
        };
        add_bias(params, self.bias, y)
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
            let summed = layer.lin.forward(&params, edges.product(x), Source::Data);
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
