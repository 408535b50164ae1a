//! Networks as data: layers in their order. Here they run on dfdx's tape; whoever runs them elsewhere, on a GPU, reads the same list.

use std::{rc::Rc, sync::Arc};

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    activation::{cut, run_gelu, run_relu},
    attention::Attention,
    block::Half,
    conv::Conv2d,
    graph_attention::GraphAttention,
    graph_conv::GraphConv,
    linear::Linear,
    neighbour_attention::NeighbourAttention,
    norm::{GroupNorm, LayerNorm},
    op::{Back, CHUNK, Shared, Step, Wanted, on_tape},
    params::{ParamId, Params},
    patch_embed::PatchEmbed,
    pool::pool,
    resident::{Dims, Pass, Resident},
    scratch::Scratch,
    sparse::{NOTHING, Sparse},
    tensor::{self, Images, Matrix, Source, gradient_mut, take_gradient},
    wide,
};

/// A step of a network. Layers with parameters know where in a [`Params`] these are.
#[derive(Clone, Debug)]
pub enum Layer {
    /// On rows; on images, on each pixel.
    Linear(Linear),
    /// On images.
    Conv2d(Conv2d),
    /// On images.
    GroupNorm(GroupNorm),
    /// The same, then ReLU.
    GroupNormRelu(GroupNorm),
    /// On rows; on images, on each pixel.
    LayerNorm(LayerNorm),
    /// On images: squares become pixels.
    PatchEmbed(PatchEmbed),
    /// On images: among the pixels of each.
    Attention(Attention),
    /// On rows, which are nodes of a graph.
    GraphConv(GraphConv),
    /// On rows, which are nodes of a graph.
    GraphAttention(GraphAttention),
    /// On rows, which are nodes of a graph.
    NeighbourAttention(NeighbourAttention),
    /// On either.
    Gelu,
    /// On either.
    Relu,
    /// Images to rows: the mean of each channel.
    Pool,
    /// What `body` makes of the input, plus what `shortcut` makes of it; of an empty one, the input itself.
    Residual {
        /// The longer way.
        body: Network,
        /// The shorter.
        shortcut: Network,
    },
}

/// Layers, the first first.
#[derive(Clone, Debug, Default)]
pub struct Network(pub Vec<Layer>);

/// What goes from layer to layer.
#[derive(Clone, Debug)]
pub enum Value<T = NoneTape> {
    /// Items x features.
    Rows(Matrix<T>),
    /// Items x height x width x channels.
    Images(Images<T>),
}

impl Network {
    /// What it makes of `x`. `source` says where `x` is from. If a device has its parameters (see [`Params::place`]), it is run
    /// there, and is one op on the tape.
    ///
    /// # Panics
    /// If the sizes of `x` are not those of the first layer, or of a layer's output not those of the next.
    pub fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Value<T>, source: Source) -> Value<T> {
        self.forward_on(params, &NOTHING, x, source)
    }

    /// The same on a graph, whose nodes are the rows of `x`.
    ///
    /// # Panics
    /// As [`Network::forward`], or if there are not as many nodes.
    pub fn forward_on<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Value<T>,
        source: Source,
    ) -> Value<T> {
        if let Some(resident) = params.resident(&self.parameters()) {
            return self.forward_away(resident, edges, x, source);
        }
        self.forward_here(params, edges, x, source)
    }

    /// Its parameters, in the order of its layers.
    pub fn parameters(&self) -> Vec<ParamId> {
        let mut ids = Vec::new();
        for layer in &self.0 {
            match layer {
                Layer::Linear(linear) => ids.extend([linear.weight, linear.bias]),
                Layer::Conv2d(conv) => ids.push(conv.weight),
                Layer::GroupNorm(GroupNorm(norm))
                | Layer::GroupNormRelu(GroupNorm(norm))
                | Layer::LayerNorm(LayerNorm(norm)) => ids.extend([norm.weight, norm.bias]),
                Layer::PatchEmbed(embed) => ids.extend([embed.weight, embed.bias]),
                Layer::Attention(Attention { qkv, proj, .. })
                | Layer::NeighbourAttention(NeighbourAttention { qkv, proj, .. }) => {
                    ids.extend([qkv.0, qkv.1, proj.0, proj.1]);
                }
                Layer::GraphConv(conv) => ids.extend([conv.weight, conv.bias]),
                Layer::GraphAttention(GraphAttention { weight, source, target, bias, .. }) => {
                    ids.extend([weight, source, target, bias]);
                }
                Layer::Gelu | Layer::Relu | Layer::Pool => {}
                Layer::Residual { body, shortcut } => {
                    ids.extend(body.parameters());
                    ids.extend(shortcut.parameters());
                }
            }
        }
        ids
    }

    fn forward_away<T: Tape<f32, Cpu>>(
        &self,
        resident: &Arc<dyn Resident>,
        edges: &Arc<Sparse>,
        x: Value<T>,
        source: Source,
    ) -> Value<T> {
        match x {
            Value::Rows(x) => {
                let (items, channels) = *x.shape();
                self.pass(resident, edges, x, Dims::rows(items, channels), self.gives_rows(true), source)
            }
            Value::Images(x) => {
                let (items, height, width, channels) = *x.shape();
                let dims = Dims { items, height, width, channels };
                self.pass(resident, edges, x, dims, self.gives_rows(false), source)
            }
        }
    }

    /// Whether it gives rows, if it is given rows or, if not, images.
    fn gives_rows(&self, rows: bool) -> bool {
        self.0.iter().fold(rows, |rows, layer| match layer {
            Layer::Pool => true,
            Layer::Conv2d(_) | Layer::GroupNorm(_) | Layer::GroupNormRelu(_) => false,
            Layer::PatchEmbed(_) | Layer::Attention(_) => false,
            Layer::GraphConv(_) | Layer::GraphAttention(_) | Layer::NeighbourAttention(_) => true,
            Layer::Linear(_) | Layer::LayerNorm(_) | Layer::Gelu | Layer::Relu => rows,
            Layer::Residual { body, .. } => body.gives_rows(rows),
        })
    }

    fn pass<S: Shape, T: Tape<f32, Cpu>>(
        &self,
        resident: &Arc<dyn Resident>,
        edges: &Arc<Sparse>,
        x: Tensor<S, f32, Cpu, T>,
        dims: Dims,
        gives_rows: bool,
        source: Source,
    ) -> Value<T> {
        let (x, tape) = x.split_tape();
        let input = |memory: &mut [f32]| x.copy_into(memory);
        let Pass { values, dims, backward } = resident.forward(self, edges, &input, dims, T::OWNS_TAPE);
        let back = move |dy: &[f32], gradients: &mut Gradients<f32, Cpu>| {
            let Some(backward) = backward else { return Ok(()) };
            let dx = backward(dy, source == Source::Op);
            if source == Source::Op {
                gradient_mut(gradients, &x)?.iter_mut().zip(dx).for_each(|(sum, value)| *sum += value);
            }
            Ok(())
        };
        let Dims { items, height, width, channels } = dims;
        if gives_rows {
            Value::Rows(recorded(tensor::tensor(values, (items, channels)), tape, back))
        } else {
            Value::Images(recorded(tensor::tensor(values, (items, height, width, channels)), tape, back))
        }
    }

    fn forward_here<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Value<T>,
        source: Source,
    ) -> Value<T> {
        match x {
            Value::Rows(x) => {
                let (items, channels) = *x.shape();
                self.here(params, edges, x, Dims::rows(items, channels), self.gives_rows(true), source)
            }
            Value::Images(x) => {
                let (items, height, width, channels) = *x.shape();
                let dims = Dims { items, height, width, channels };
                self.here(params, edges, x, dims, self.gives_rows(false), source)
            }
        }
    }

    fn here<S: Shape, T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Tensor<S, f32, Cpu, T>,
        dims: Dims,
        gives_rows: bool,
        source: Source,
    ) -> Value<T> {
        let run = |x| self.run(params, edges, x, dims, T::OWNS_TAPE);
        if gives_rows {
            Value::Rows(on_tape(x, source, run, |dims| (dims.pixels(), dims.channels)))
        } else {
            let shape = |dims: Dims| (dims.items, dims.height, dims.width, dims.channels);
            Value::Images(on_tape(x, source, run, shape))
        }
    }

    /// Where nothing `records`, no layer keeps anything for a way back.
    fn run(&self, params: &Params, edges: &Arc<Sparse>, x: Shared, dims: Dims, records: bool) -> Step {
        let (mut values, mut dims, mut backs) = (x, dims, Vec::with_capacity(self.0.len()));
        let mut layers = self.0.iter().peekable();
        while let Some(layer) = layers.next() {
            let step = match layer {
                Layer::Residual { body, shortcut } => {
                    // What follows an addition joins it.
                    let relu = layers.next_if(|next| matches!(next, Layer::Relu)).is_some();
                    residual([body, shortcut], relu, (params, edges), values, dims, records)
                }
                layer => layer.run(params, edges, values, dims, records),
            };
            (values, dims) = (step.values, step.dims);
            if records {
                backs.push(step.back);
            }
        }
        let back: Back = Box::new(move |mut dy, gradients, wanted| {
            let mut backs = backs.into_iter();
            let Some(first) = backs.next() else { return Ok(wanted.of(dy)) };
            for back in backs.rev() {
                let Some(dx) = back(dy, gradients, Wanted::Alone)? else { return Ok(None) };
                dy = dx;
            }
            first(dy, gradients, wanted)
        });
        Step { values, dims, back }
    }
}

/// What `body` makes of `x` and what `shortcut` does, added; with `relu`, what is above 0 of it.
fn residual(
    [body, shortcut]: [&Network; 2],
    relu: bool,
    (params, edges): (&Params, &Arc<Sparse>),
    x: Shared,
    dims: Dims,
    records: bool,
) -> Step {
    if let Some((norm, half)) = Half::of(&body.0).filter(|_| shortcut.0.is_empty() && !relu) {
        return half.run(params, norm, x, dims);
    }
    let aside = shortcut.run(params, edges, x.clone(), dims, records);
    let body = body.run(params, edges, x, dims, records);
    assert_eq!(body.values.len(), aside.values.len(), "values of what a residual adds");
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let mut sum = Rc::try_unwrap(body.values).unwrap_or_else(|values| Scratch::from(&values[..]));
    sum.par_chunks_mut(CHUNK).zip(aside.values.par_chunks(CHUNK)).for_each(|(sums, values)| {
        wide::update(sums, values, |sum, value| (sum + value).max(floor));
    });
    drop(aside.values);
    let values = Rc::new(sum);
    let (body_back, shortcut_back, cut_by) = (body.back, aside.back, relu.then(|| values.clone()));
    let back: Back = Box::new(move |mut dy, gradients, wanted| {
        if let Some(y) = cut_by {
            cut(&mut dy, &y);
        }
        let aside = shortcut_back(Scratch::from(&dy[..]), gradients, wanted)?;
        body_back(dy, gradients, aside.map_or(Wanted::Nothing, Wanted::Added))
    });
    Step { values, dims: body.dims, back }
}

/// `y` with its way back.
fn recorded<S: Shape, T: Tape<f32, Cpu>>(
    y: Tensor<S, f32, Cpu>,
    mut tape: T,
    back: impl FnOnce(&[f32], &mut Gradients<f32, Cpu>) -> Result<(), CpuError> + 'static,
) -> Tensor<S, f32, Cpu, T> {
    let out = y.clone();
    tape.add_backward_op(move |gradients| {
        let dy = take_gradient(gradients, &out)?;
        back(&dy, gradients)
    });
    y.put_tape(tape)
}

impl Layer {
    fn run(&self, params: &Params, edges: &Arc<Sparse>, x: Shared, dims: Dims, records: bool) -> Step {
        match self {
            Self::Linear(linear) => linear.run(params, x, dims),
            Self::Conv2d(conv) => conv.run(params, x, dims),
            Self::GroupNorm(norm) => norm.run(params, x, dims, false),
            Self::GroupNormRelu(norm) => norm.run(params, x, dims, true),
            Self::LayerNorm(norm) => norm.run(params, x, dims),
            Self::PatchEmbed(embed) => embed.run(params, x, dims),
            Self::Attention(attention) => attention.run(params, x, dims),
            Self::GraphConv(conv) => conv.run(params, edges, x, dims),
            Self::GraphAttention(attention) => attention.run(params, edges, x, dims),
            Self::NeighbourAttention(attention) => attention.run(params, edges, x, dims),
            Self::Gelu => run_gelu(x, dims),
            Self::Relu => run_relu(x, dims),
            Self::Pool => pool(&x, dims),
            Self::Residual { body, shortcut } => {
                residual([body, shortcut], false, (params, edges), x, dims, records)
            }
        }
    }
}

impl<T> From<Matrix<T>> for Value<T> {
    fn from(rows: Matrix<T>) -> Self {
        Self::Rows(rows)
    }
}

impl<T> From<Images<T>> for Value<T> {
    fn from(images: Images<T>) -> Self {
        Self::Images(images)
    }
}

impl<T: Tape<f32, Cpu>> Value<T> {
    /// As rows; images as a row of all their values each.
    pub fn rows(self) -> Matrix<T> {
        match self {
            Self::Rows(x) => x,
            Self::Images(x) => {
                let (count, height, width, channels) = *x.shape();
                x.reshape_like(&(count, height * width * channels))
            }
        }
    }

    /// As images; rows as images of one pixel.
    pub fn images(self) -> Images<T> {
        match self {
            Self::Images(x) => x,
            Self::Rows(x) => {
                let (count, channels) = *x.shape();
                x.reshape_like(&(count, 1, 1, channels))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gradcheck::{check, rng, wave},
        sparse::tests::edges,
    };

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (mut params, mut rng) = (Params::default(), rng());
        let conv = |params: &mut Params, rng: &mut _, name, channels, window| {
            Layer::Conv2d(Conv2d::new(params, name, channels, window, rng))
        };
        let body = Network(vec![
            conv(&mut params, &mut rng, "a", (2, 3), (3, 2)),
            Layer::GroupNormRelu(GroupNorm::new(&mut params, "b", 3)),
        ]);
        let shortcut = Network(vec![conv(&mut params, &mut rng, "c", (2, 3), (1, 2))]);
        let network = Network(vec![
            Layer::Residual { body, shortcut },
            Layer::Gelu,
            Layer::Linear(Linear::new(&mut params, "d", 3, 4, &mut rng)),
            Layer::Pool,
            Layer::Residual { body: Network(vec![Layer::Gelu]), shortcut: Network::default() },
        ]);
        check(&params, wave((3, 4, 4, 2)), |params, x| {
            network.forward(params, Value::Images(x), Source::Op).rows()
        });
    }

    /// A transformer's block, on what squares of images become.
    #[test]
    fn gradients_of_a_block_are_those_of_finite_differences() {
        let (mut params, mut rng) = (Params::default(), rng());
        let embed = PatchEmbed::new(&mut params, "embed", 1, (2, 4), &mut rng);
        let norm = |params: &mut Params, name| Layer::LayerNorm(LayerNorm::new(params, name, 4));
        let beside = |body| Layer::Residual { body: Network(body), shortcut: Network::default() };
        let among = vec![
            norm(&mut params, "norm1"),
            Layer::Attention(Attention::new(&mut params, "attn", 4, 2, &mut rng)),
        ];
        let alone = vec![
            norm(&mut params, "norm2"),
            Layer::Linear(Linear::new(&mut params, "fc1", 4, 8, &mut rng)),
            Layer::Gelu,
            Layer::Linear(Linear::new(&mut params, "fc2", 8, 4, &mut rng)),
        ];
        let network = Network(vec![Layer::PatchEmbed(embed), beside(among), beside(alone), Layer::Pool]);
        check(&params, wave((3, 4, 6, 1)), |params, x| {
            network.forward(params, Value::Images(x), Source::Op).rows()
        });
    }

    #[test]
    fn gradients_on_a_graph_are_those_of_finite_differences() {
        let (mut params, mut rng) = (Params::default(), rng());
        let among = vec![
            Layer::LayerNorm(LayerNorm::new(&mut params, "b", 6)),
            Layer::NeighbourAttention(NeighbourAttention::new(&mut params, "c", 6, 2, &mut rng)),
        ];
        let network = Network(vec![
            Layer::GraphConv(GraphConv::new(&mut params, "a", 3, 6, &mut rng)),
            Layer::Residual { body: Network(among), shortcut: Network::default() },
            Layer::GraphAttention(GraphAttention::new(&mut params, "d", 6, (4, 2), &mut rng)),
            Layer::Gelu,
            Layer::GraphConv(GraphConv::new(&mut params, "e", 4, 2, &mut rng)),
        ]);
        assert_eq!(network.parameters().len(), params.iter().count());
        check(&params, wave((7, 3)), |params, x| {
            network.forward_on(params, &edges(), x.into(), Source::Op).rows()
        });
    }

    #[test]
    #[should_panic(expected = "nodes of the graph")]
    fn a_layer_on_a_graph_wants_one() {
        let mut params = Params::default();
        let layer = Layer::GraphConv(GraphConv::new(&mut params, "a", 3, 2, &mut rng()));
        Network(vec![layer]).forward(&params, wave((7, 3)).into(), Source::Data);
    }
}
