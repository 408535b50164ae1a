//! Networks on a GPU: layer by layer forward, and back in the opposite order. The formulas are those of `restage-nn`'s layers.

use std::{collections::HashMap, ops::Range, rc::Rc};

use restage_nn::{Attention, Conv2d, Dims, Layer, Linear, Network, Norm, ParamId, PatchEmbed, positions};

use crate::{
    gpu::{Buffer, Factor, Gpu, GpuError, View},
    kernels::{Edges, Groups, Heads, Slopes, Windows},
};

mod graph;

/// Values of a matrix of windows that are made at once.
const MOST: usize = 1 << 26;

/// Where in the memory of all parameters each is.
pub(crate) type Ranges = HashMap<ParamId, Range<usize>>;

/// A batch between two layers.
#[derive(Clone)]
pub(crate) struct Batch {
    pub(crate) values: Rc<Buffer>,
    pub(crate) dims: Dims,
}

/// What a layer's way back needs.
pub(crate) enum Saved {
    Linear { x: Batch },
    Windows { x: Batch },
    Norm { x: Batch, y: Batch, moments: Buffer },
    Attention { x: Batch, apart: Rc<Buffer>, weights: Rc<Buffer>, context: Rc<Buffer> },
    Gelu { x: Batch },
    Relu { y: Batch },
    Pool { dims: Dims },
    Graph(graph::Saved),
    Residual { body: Vec<Saved>, shortcut: Vec<Saved> },
}

/// A convolution as both kinds of layer have it.
#[derive(Clone, Copy)]
struct Convolution {
    weight: ParamId,
    inputs: usize,
    outputs: usize,
    side: usize,
    stride: usize,
    padding: usize,
}

impl From<&Conv2d> for Convolution {
    fn from(conv: &Conv2d) -> Self {
        let Conv2d { inputs, outputs, side, stride, padding, weight } = *conv;
        Self { weight, inputs, outputs, side, stride, padding }
    }
}

impl From<&PatchEmbed> for Convolution {
    fn from(embed: &PatchEmbed) -> Self {
        let PatchEmbed { channels, side, width, weight, .. } = *embed;
        Self { weight, inputs: channels, outputs: width, side, stride: side, padding: 0 }
    }
}

impl Convolution {
    fn dims(&self, dims: Dims) -> Dims {
        let out = |length: usize| (length + 2 * self.padding - self.side) / self.stride + 1;
        Dims { height: out(dims.height), width: out(dims.width), channels: self.outputs, ..dims }
    }

    fn windows(&self, dims: Dims) -> Windows {
        let out = self.dims(dims);
        Windows {
            height: dims.height as u32,
            width: dims.width as u32,
            channels: dims.channels as u32,
            side: self.side as u32,
            stride: self.stride as u32,
            padding: self.padding as u32,
            out_height: out.height as u32,
            out_width: out.width as u32,
        }
    }

    /// Values of a window.
    fn columns(&self) -> usize {
        self.side * self.side * self.inputs
    }

    /// Groups of images whose windows are made at once: their values, and those of what comes out.
    fn groups(&self, dims: Dims) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let out = self.dims(dims);
        let (image, out_image) = (dims.values() / dims.items.max(1), out.values() / dims.items.max(1));
        let at_once = (MOST / (out.height * out.width * self.columns()).max(1)).max(1);
        (0..dims.items).step_by(at_once).map(move |first| {
            let last = (first + at_once).min(dims.items);
            (first * image..last * image, first * out_image..last * out_image)
        })
    }
}

/// Sizes of what a network makes of a batch of these sizes.
pub(crate) fn dims_after(network: &Network, dims: Dims) -> Dims {
    network.0.iter().fold(dims, |dims, layer| match layer {
        Layer::Linear(linear) => Dims { channels: linear.outputs, ..dims },
        Layer::Conv2d(conv) => Convolution::from(conv).dims(dims),
        Layer::PatchEmbed(embed) => Convolution::from(embed).dims(dims),
        Layer::Pool => Dims::rows(dims.items, dims.channels),
        Layer::Residual { body, .. } => dims_after(body, dims),
        Layer::GraphConv(conv) => Dims { channels: conv.outputs, ..dims },
        Layer::GraphAttention(attention) => Dims { channels: attention.outputs, ..dims },
        Layer::GroupNorm(_)
        | Layer::GroupNormRelu(_)
        | Layer::LayerNorm(_)
        | Layer::Attention(_)
        | Layer::NeighbourAttention(_)
        | Layer::Gelu
        | Layer::Relu => dims,
    })
}

/// Parameters on a GPU, to run networks of. Those of windows lie as windows do: output, row, column, input.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) ranges: &'a Ranges,
    pub(crate) values: &'a Buffer,
    /// Those between the rows of a batch; of what has no layer on a graph, none.
    pub(crate) edges: Option<&'a Edges>,
}

impl Weights<'_> {
    fn of(&self, id: ParamId) -> View<'_> {
        self.values.slice(self.ranges[&id].clone())
    }

    /// What a network makes of `x`; what its way back needs is added to `tape`.
    pub(crate) fn forward(
        &self,
        network: &Network,
        x: Batch,
        tape: &mut Option<Vec<Saved>>,
    ) -> Result<Batch, GpuError> {
        let mut x = x;
        for layer in &network.0 {
            x = self.layer(layer, x, tape)?;
        }
        Ok(x)
    }

    fn layer(&self, layer: &Layer, x: Batch, tape: &mut Option<Vec<Saved>>) -> Result<Batch, GpuError> {
        let (gpu, stream, kernels) = (self.gpu, &self.gpu.stream, &self.gpu.kernels);
        let count = x.dims.values();
        let (y, saved) = match layer {
            Layer::Linear(linear) => (self.linear(linear, &x)?, Saved::Linear { x }),
            Layer::Conv2d(conv) => (self.convolution(conv.into(), &x, None)?, Saved::Windows { x }),
            Layer::PatchEmbed(embed) => {
                let dims = Convolution::from(embed).dims(x.dims);
                let places = gpu.upload(&positions(dims.height, dims.width, dims.channels))?;
                let mut start = gpu.alloc(dims.values())?;
                kernels.repeat(stream, &mut start, &places.as_view())?;
                let mut bias = gpu.alloc(dims.values())?;
                kernels.repeat(stream, &mut bias, &self.of(embed.bias))?;
                kernels.add(stream, &mut start.as_view_mut(), &bias.as_view())?;
                (self.convolution(embed.into(), &x, Some(start))?, Saved::Windows { x })
            }
            Layer::GroupNorm(norm) => self.norm(of_images(&norm.0, x.dims), &norm.0, x, false)?,
            Layer::GroupNormRelu(norm) => self.norm(of_images(&norm.0, x.dims), &norm.0, x, true)?,
            Layer::LayerNorm(norm) => self.norm(of_pixels(&norm.0), &norm.0, x, false)?,
            Layer::Attention(attention) => self.attention(attention, x)?,
            Layer::Gelu => {
                let mut y = gpu.alloc(count)?;
                kernels.gelu(stream, &mut y, &x.values.as_view())?;
                (batch(y, x.dims), Saved::Gelu { x })
            }
            Layer::Relu => {
                let mut y = gpu.alloc(count)?;
                kernels.relu(stream, &mut y, &x.values.as_view())?;
                let y = batch(y, x.dims);
                (y.clone(), Saved::Relu { y })
            }
            Layer::Pool => {
                let Dims { items, height, width, channels } = x.dims;
                let mut y = gpu.alloc(items * channels)?;
                kernels.pool(stream, &mut y, &x.values.as_view(), (height * width, channels))?;
                (batch(y, Dims::rows(items, channels)), Saved::Pool { dims: x.dims })
            }
            Layer::GraphConv(_) | Layer::GraphAttention(_) | Layer::NeighbourAttention(_) => {
                let (y, saved) = self.graph_layer(layer, x)?;
                (y, Saved::Graph(saved))
            }
            Layer::Residual { body, shortcut } => {
                let mut tapes = [(); 2].map(|()| tape.is_some().then(Vec::new));
                let aside = self.forward(shortcut, x.clone(), &mut tapes[1])?;
                let Batch { values, dims } = self.forward(body, x, &mut tapes[0])?;
                let sum = self.sum(values, &aside.values)?;
                let [body, shortcut] = tapes.map(Option::unwrap_or_default);
                (Batch { values: sum, dims }, Saved::Residual { body, shortcut })
            }
        };
        if let Some(tape) = tape {
            tape.push(saved);
        }
        Ok(y)
    }

    fn linear(&self, linear: &Linear, x: &Batch) -> Result<Batch, GpuError> {
        let rows = x.dims.pixels();
        let y =
            self.rows_times(&x.values, rows, (linear.inputs, linear.outputs), (linear.weight, linear.bias))?;
        Ok(batch(y, Dims { channels: linear.outputs, ..x.dims }))
    }

    /// `x Wᵀ + b`.
    fn rows_times(
        &self,
        x: &Buffer,
        rows: usize,
        sizes: (usize, usize),
        (weight, bias): (ParamId, ParamId),
    ) -> Result<Buffer, GpuError> {
        self.add_projected(x, rows, sizes, weight, 1.0, self.repeated(bias, rows)?)
    }

    /// Products of windows and weights, added to `start` where there is one.
    fn convolution(&self, conv: Convolution, x: &Batch, start: Option<Buffer>) -> Result<Batch, GpuError> {
        let (gpu, columns) = (self.gpu, conv.columns());
        let (windows, dims) = (conv.windows(x.dims), conv.dims(x.dims));
        let w = self.of(conv.weight);
        let beta = if start.is_some() { 1.0 } else { 0.0 };
        let mut y = start.map_or_else(|| gpu.alloc(dims.values()), Ok)?;
        for (from, to) in conv.groups(x.dims) {
            let rows = to.len() / conv.outputs;
            let matrix = self.gather(&x.values.slice(from), &windows, rows * columns)?;
            let factors = (Factor::new(rows, columns), Factor::new(conv.outputs, columns).t());
            gpu.product((&matrix.as_view(), factors.0), (&w, factors.1), beta, &mut y.slice_mut(to))?;
        }
        Ok(batch(y, dims))
    }

    fn gather(&self, images: &View, windows: &Windows, count: usize) -> Result<Buffer, GpuError> {
        let mut matrix = self.gpu.alloc(count)?;
        self.gpu.kernels.gather(&self.gpu.stream, &mut matrix, images, windows)?;
        Ok(matrix)
    }

    fn norm(&self, sizes: Groups, norm: &Norm, x: Batch, has_relu: bool) -> Result<(Batch, Saved), GpuError> {
        let items = x.dims.pixels() / sizes.pixels;
        let (mut y, mut moments) =
            (self.gpu.alloc(x.dims.values())?, self.gpu.alloc(2 * items * norm.groups)?);
        let affine = (&self.of(norm.weight), &self.of(norm.bias));
        let (stream, values) = (&self.gpu.stream, x.values.as_view());
        self.gpu.kernels.normalise(stream, &mut y, &mut moments, &values, affine, sizes, has_relu)?;
        let y = batch(y, x.dims);
        Ok((y.clone(), Saved::Norm { x, y, moments }))
    }

    fn attention(&self, attention: &Attention, x: Batch) -> Result<(Batch, Saved), GpuError> {
        let (gpu, stream, kernels) = (self.gpu, &self.gpu.stream, &self.gpu.kernels);
        let (sizes, dim, rows) = (heads(attention, x.dims), attention.dim(), x.dims.pixels());
        let (batch_size, tokens, width) = (x.dims.items * sizes.heads, sizes.tokens, sizes.width);
        let qkv = self.rows_times(&x.values, rows, (dim, 3 * dim), attention.qkv)?;
        let mut apart = gpu.alloc(qkv.len())?;
        kernels.by_head(stream, &mut apart, &qkv.as_view(), sizes, 3)?;
        let part = |part: usize| apart.slice(part * rows * dim..(part + 1) * rows * dim);
        let (q, k, v) = (part(0), part(1), part(2));
        let of_head = Factor::new(tokens, width);
        let mut weights = gpu.alloc(batch_size * tokens * tokens)?;
        let mut weights_mut = weights.as_view_mut();
        gpu.products(batch_size, (&q, of_head), (&k, of_head.t()), scale(sizes), &mut weights_mut)?;
        kernels.softmax(stream, &mut weights, tokens)?;
        let mut taken = gpu.alloc(rows * dim)?;
        let by_weights = (&weights.as_view(), Factor::new(tokens, tokens));
        gpu.products(batch_size, by_weights, (&v, of_head), 1.0, &mut taken.as_view_mut())?;
        let mut context = gpu.alloc(rows * dim)?;
        kernels.by_head_back(stream, &mut context, &taken.as_view(), sizes, 1)?;
        let y = self.rows_times(&context, rows, (dim, dim), attention.proj)?;
        let y = batch(y, x.dims);
        let [apart, weights, context] = [apart, weights, context].map(Rc::new);
        Ok((y, Saved::Attention { x, apart, weights, context }))
    }

    /// `a + b`, in the place of `a` if nobody else has it.
    fn sum(&self, a: Rc<Buffer>, b: &Buffer) -> Result<Rc<Buffer>, GpuError> {
        let mut sum = match Rc::try_unwrap(a) {
            Ok(values) => values,
            Err(shared) => self.gpu.stream.clone_dtod(&*shared)?,
        };
        self.gpu.kernels.add(&self.gpu.stream, &mut sum.as_view_mut(), &b.as_view())?;
        Ok(Rc::new(sum))
    }

    /// Adds the gradients of a network's parameters to `gradients`, and gives that of its input if that is wanted.
    pub(crate) fn backward(
        &self,
        network: &Network,
        saved: Vec<Saved>,
        dy: Rc<Buffer>,
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        let mut dy = dy;
        for (index, (layer, saved)) in network.0.iter().zip(saved).enumerate().rev() {
            match self.layer_back(layer, saved, dy, gradients, wants_input || index > 0)? {
                Some(dx) => dy = dx,
                None => return Ok(None),
            }
        }
        Ok(Some(dy))
    }

    fn layer_back(
        &self,
        layer: &Layer,
        saved: Saved,
        dy: Rc<Buffer>,
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        let (gpu, stream, kernels) = (self.gpu, &self.gpu.stream, &self.gpu.kernels);
        let dy_view = dy.as_view();
        let dx = match (layer, saved) {
            (Layer::Linear(linear), Saved::Linear { x }) => {
                let sizes = (linear.inputs, linear.outputs);
                let ids = (linear.weight, linear.bias);
                return self.rows_times_back(&x.values, &dy, sizes, ids, gradients, wants_input);
            }
            (Layer::Conv2d(conv), Saved::Windows { x }) => {
                return self.convolution_back(conv.into(), &x, &dy, gradients, wants_input);
            }
            (Layer::PatchEmbed(embed), Saved::Windows { x }) => {
                kernels.add_columns(
                    stream,
                    &mut gradients.slice_mut(self.ranges[&embed.bias].clone()),
                    &dy_view,
                )?;
                return self.convolution_back(embed.into(), &x, &dy, gradients, wants_input);
            }
            (Layer::GroupNorm(norm), Saved::Norm { x, y, moments }) => {
                let sizes = of_images(&norm.0, x.dims);
                self.norm_back(sizes, &norm.0, [&x, &y], &moments, &dy, (false, gradients))?
            }
            (Layer::GroupNormRelu(norm), Saved::Norm { x, y, moments }) => {
                let sizes = of_images(&norm.0, x.dims);
                self.norm_back(sizes, &norm.0, [&x, &y], &moments, &dy, (true, gradients))?
            }
            (Layer::LayerNorm(norm), Saved::Norm { x, y, moments }) => {
                self.norm_back(of_pixels(&norm.0), &norm.0, [&x, &y], &moments, &dy, (false, gradients))?
            }
            (Layer::Attention(attention), Saved::Attention { x, apart, weights, context }) => {
                let saved = [&*apart, &*weights, &*context];
                return self.attention_back(attention, &x, saved, &dy, gradients, wants_input);
            }
            (Layer::Gelu, Saved::Gelu { x }) => {
                let mut dx = gpu.alloc(dy.len())?;
                kernels.gelu_back(stream, &mut dx, &dy_view, &x.values.as_view())?;
                dx
            }
            (Layer::Relu, Saved::Relu { y }) => {
                let mut dx = gpu.alloc(dy.len())?;
                kernels.relu_back(stream, &mut dx, &dy_view, &y.values.as_view())?;
                dx
            }
            (Layer::Pool, Saved::Pool { dims }) => {
                let mut dx = gpu.alloc(dims.values())?;
                kernels.pool_back(stream, &mut dx, &dy_view, (dims.height * dims.width, dims.channels))?;
                dx
            }
            (layer, Saved::Graph(saved)) => {
                return self.graph_layer_back(layer, saved, &dy, gradients, wants_input);
            }
            (
                Layer::Residual { body, shortcut },
                Saved::Residual { body: of_body, shortcut: of_shortcut },
            ) => {
                let aside = self.backward(shortcut, of_shortcut, dy.clone(), gradients, wants_input)?;
                let dx = self.backward(body, of_body, dy, gradients, wants_input)?;
                return match (dx, aside) {
                    (Some(dx), Some(aside)) if wants_input => Ok(Some(self.sum(dx, &aside)?)),
                    _ => Ok(None),
                };
            }
            _ => unreachable!("a layer's way back is saved by its way forward"),
        };
        Ok(Some(Rc::new(dx)))
    }

    /// Of `y = x Wᵀ + b`.
    fn rows_times_back(
        &self,
        x: &Buffer,
        dy: &Buffer,
        sizes: (usize, usize),
        (weight, bias): (ParamId, ParamId),
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        self.bias_back(bias, dy, gradients)?;
        self.project_back(x, dy, sizes, weight, gradients, wants_input)
    }

    fn range(&self, id: ParamId) -> Range<usize> {
        self.ranges[&id].clone()
    }

    /// A bias, so many times.
    fn repeated(&self, bias: ParamId, rows: usize) -> Result<Buffer, GpuError> {
        let bias = self.of(bias);
        let mut y = self.gpu.alloc(rows * bias.len())?;
        self.gpu.kernels.repeat(&self.gpu.stream, &mut y, &bias)?;
        Ok(y)
    }

    /// Adds the columns of `dy` to the gradient of what is in every row.
    fn bias_back(&self, bias: ParamId, dy: &Buffer, gradients: &mut Buffer) -> Result<(), GpuError> {
        let mut sums = gradients.slice_mut(self.range(bias));
        self.gpu.kernels.add_columns(&self.gpu.stream, &mut sums, &dy.as_view())
    }

    /// `x Wᵀ`.
    fn project(
        &self,
        x: &Buffer,
        rows: usize,
        (inputs, outputs): (usize, usize),
        weight: ParamId,
    ) -> Result<Buffer, GpuError> {
        self.add_projected(x, rows, (inputs, outputs), weight, 0.0, self.gpu.alloc(rows * outputs)?)
    }

    /// `x Wᵀ + beta y`, in the place of `y`.
    fn add_projected(
        &self,
        x: &Buffer,
        rows: usize,
        (inputs, outputs): (usize, usize),
        weight: ParamId,
        beta: f32,
        mut y: Buffer,
    ) -> Result<Buffer, GpuError> {
        let (x, w) = (x.as_view(), self.of(weight));
        let (x, w) = ((&x, Factor::new(rows, inputs)), (&w, Factor::new(outputs, inputs).t()));
        self.gpu.product(x, w, beta, &mut y.as_view_mut())?;
        Ok(y)
    }

    fn project_back(
        &self,
        x: &Buffer,
        dy: &Buffer,
        (inputs, outputs): (usize, usize),
        weight: ParamId,
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        let (gpu, rows, dy) = (self.gpu, dy.len() / outputs, dy.as_view());
        let dy_is = Factor::new(rows, outputs);
        let mut dw = gradients.slice_mut(self.range(weight));
        gpu.product((&dy, dy_is.t()), (&x.as_view(), Factor::new(rows, inputs)), 1.0, &mut dw)?;
        if !wants_input {
            return Ok(None);
        }
        let mut dx = gpu.alloc(rows * inputs)?;
        let w = self.of(weight);
        gpu.product((&dy, dy_is), (&w, Factor::new(outputs, inputs)), 0.0, &mut dx.as_view_mut())?;
        Ok(Some(Rc::new(dx)))
    }

    fn convolution_back(
        &self,
        conv: Convolution,
        x: &Batch,
        dy: &Buffer,
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        let (gpu, stream, kernels, columns) = (self.gpu, &self.gpu.stream, &self.gpu.kernels, conv.columns());
        let windows = conv.windows(x.dims);
        let (w, w_is) = (self.of(conv.weight), Factor::new(conv.outputs, columns));
        let mut dx = wants_input.then(|| gpu.alloc(x.dims.values())).transpose()?;
        for (from, to) in conv.groups(x.dims) {
            let rows = to.len() / conv.outputs;
            let (dy, dy_is) = (dy.slice(to), Factor::new(rows, conv.outputs));
            let matrix_is = Factor::new(rows, columns);
            let mut matrix = self.gather(&x.values.slice(from.clone()), &windows, rows * columns)?;
            let mut dw = gradients.slice_mut(self.ranges[&conv.weight].clone());
            gpu.product((&dy, dy_is.t()), (&matrix.as_view(), matrix_is), 1.0, &mut dw)?;
            if let Some(dx) = &mut dx {
                // In the place of the windows, their gradients.
                gpu.product((&dy, dy_is), (&w, w_is), 0.0, &mut matrix.as_view_mut())?;
                kernels.scatter(stream, &mut dx.slice_mut(from), &matrix.as_view(), &windows)?;
            }
        }
        Ok(dx.map(Rc::new))
    }

    fn norm_back(
        &self,
        sizes: Groups,
        norm: &Norm,
        [x, y]: [&Batch; 2],
        moments: &Buffer,
        dy: &Buffer,
        (has_relu, gradients): (bool, &mut Buffer),
    ) -> Result<Buffer, GpuError> {
        let (stream, kernels) = (&self.gpu.stream, &self.gpu.kernels);
        let (x, y, dy) = (x.values.as_view(), y.values.as_view(), dy.as_view());
        let slopes = Slopes { dy: &dy, y: &y, x: &x, moments, has_relu };
        let parts = kernels.norm_params(stream, &slopes, sizes)?;
        for (id, part) in [norm.weight, norm.bias].iter().zip(&parts) {
            kernels.add_norm_params(stream, &mut gradients.slice_mut(self.ranges[id].clone()), part)?;
        }
        let mut dx = self.gpu.alloc(x.len())?;
        kernels.normalise_back(stream, &mut dx, &slopes, &self.of(norm.weight), sizes)?;
        Ok(dx)
    }

    fn attention_back(
        &self,
        attention: &Attention,
        x: &Batch,
        [apart, weights, context]: [&Buffer; 3],
        dy: &Buffer,
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        let (gpu, stream, kernels) = (self.gpu, &self.gpu.stream, &self.gpu.kernels);
        let (sizes, dim, rows) = (heads(attention, x.dims), attention.dim(), x.dims.pixels());
        let (batch_size, tokens, width) = (x.dims.items * sizes.heads, sizes.tokens, sizes.width);
        let back = self.rows_times_back(context, dy, (dim, dim), attention.proj, gradients, true)?;
        let Some(dcontext) = back else { return Ok(None) };
        let mut dtaken = gpu.alloc(rows * dim)?;
        kernels.by_head(stream, &mut dtaken, &dcontext.as_view(), sizes, 1)?;
        let dtaken = dtaken.as_view();
        let part = |part: usize| part * rows * dim..(part + 1) * rows * dim;
        let (of_head, square) = (Factor::new(tokens, width), Factor::new(tokens, tokens));
        let mut dapart = gpu.alloc(3 * rows * dim)?;
        let by_weights = weights.as_view();
        gpu.products(
            batch_size,
            (&by_weights, square.t()),
            (&dtaken, of_head),
            1.0,
            &mut dapart.slice_mut(part(2)),
        )?;
        let mut slopes = gpu.alloc(weights.len())?;
        let v = (&apart.slice(part(2)), of_head.t());
        gpu.products(batch_size, (&dtaken, of_head), v, 1.0, &mut slopes.as_view_mut())?;
        kernels.softmax_back(stream, &mut slopes, weights, tokens)?;
        let slopes = slopes.as_view();
        let (q, k, by) = (apart.slice(part(0)), apart.slice(part(1)), scale(sizes));
        gpu.products(batch_size, (&slopes, square), (&k, of_head), by, &mut dapart.slice_mut(part(0)))?;
        gpu.products(batch_size, (&slopes, square.t()), (&q, of_head), by, &mut dapart.slice_mut(part(1)))?;
        let mut dqkv = gpu.alloc(3 * rows * dim)?;
        kernels.by_head_back(stream, &mut dqkv, &dapart.as_view(), sizes, 3)?;
        self.rows_times_back(&x.values, &dqkv, (dim, 3 * dim), attention.qkv, gradients, wants_input)
    }
}

fn batch(values: Buffer, dims: Dims) -> Batch {
    Batch { values: Rc::new(values), dims }
}

/// Each image is an item.
fn of_images(norm: &Norm, dims: Dims) -> Groups {
    Groups { pixels: dims.height * dims.width, channels: norm.channels, groups: norm.groups }
}

/// Each pixel, or row, is an item.
fn of_pixels(norm: &Norm) -> Groups {
    Groups { pixels: 1, channels: norm.channels, groups: norm.groups }
}

fn heads(attention: &Attention, dims: Dims) -> Heads {
    let heads = attention.heads();
    Heads { tokens: dims.height * dims.width, heads, width: attention.dim() / heads }
}

/// What agreements are multiplied by: 1/√width.
fn scale(sizes: Heads) -> f32 {
    1.0 / (sizes.width as f32).sqrt()
}
