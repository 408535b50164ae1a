//! Layers on a graph, forward and back.

use std::rc::Rc;

use restage_nn::{Dims, GraphAttention, GraphConv, Layer, NeighbourAttention, ParamId};

use super::{Batch, Weights, batch};
use crate::{
    gpu::{Buffer, GpuError},
    kernels::{Edges, NodeHeads, Part, Toward},
};

/// What the way back of a layer on a graph needs.
pub(crate) enum Saved {
    /// Of what was multiplied with the weights.
    Conv {
        z: Rc<Buffer>,
    },
    Attention {
        x: Rc<Buffer>,
        h: Buffer,
        scores: Buffer,
        shares: Buffer,
    },
    Neighbours {
        x: Rc<Buffer>,
        qkv: Buffer,
        shares: Buffer,
        sums: Buffer,
    },
}

/// A node's row is one part.
fn whole(values: usize) -> Part {
    Part::new(0, 1, values)
}

const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;

impl Weights<'_> {
    fn edges(&self) -> &Edges {
        self.edges
            .unwrap_or_else(|| unreachable!("whoever runs a network with layers on a graph gives its edges"))
    }

    pub(super) fn graph_layer(&self, layer: &Layer, x: Batch) -> Result<(Batch, Saved), GpuError> {
        let nodes = x.dims.items;
        let (values, saved) = match layer {
            Layer::GraphConv(conv) => self.graph_conv(conv, x.values, nodes)?,
            Layer::GraphAttention(attention) => self.graph_attention(attention, x.values, nodes)?,
            Layer::NeighbourAttention(attention) => self.neighbour_attention(attention, x.values, nodes)?,
            _ => unreachable!("the caller sees to it that it is a layer on a graph"),
        };
        let channels = values.len() / nodes.max(1);
        Ok((batch(values, Dims { channels, ..x.dims }), saved))
    }

    pub(super) fn graph_layer_back(
        &self,
        layer: &Layer,
        saved: Saved,
        dy: &Buffer,
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        match (layer, saved) {
            (Layer::GraphConv(conv), Saved::Conv { z }) => {
                self.graph_conv_back(conv, &z, dy, gradients, wants_input)
            }
            (Layer::GraphAttention(attention), Saved::Attention { x, h, scores, shares }) => {
                let saved = [&*x, &h, &scores, &shares];
                self.graph_attention_back(attention, saved, dy, gradients, wants_input)
            }
            (Layer::NeighbourAttention(attention), Saved::Neighbours { x, qkv, shares, sums }) => {
                let saved = [&*x, &qkv, &shares, &sums];
                self.neighbour_attention_back(attention, saved, dy, gradients, wants_input)
            }
            _ => unreachable!("a layer's way back is saved by its way forward"),
        }
    }

    fn graph_conv(&self, conv: &GraphConv, x: Rc<Buffer>, nodes: usize) -> Result<(Buffer, Saved), GpuError> {
        let GraphConv { inputs, outputs, weight, bias } = *conv;
        if conv.sums_first() {
            let sums = self.spread(&x, Toward::Target, self.gpu.zeros(nodes * inputs)?, inputs)?;
            let y = self.rows_times(&sums, nodes, (inputs, outputs), (weight, bias))?;
            return Ok((y, Saved::Conv { z: Rc::new(sums) }));
        }
        let h = self.project(&x, nodes, (inputs, outputs), weight)?;
        let y = self.spread(&h, Toward::Target, self.repeated(bias, nodes)?, outputs)?;
        Ok((y, Saved::Conv { z: x }))
    }

    fn graph_conv_back(
        &self,
        conv: &GraphConv,
        z: &Buffer,
        dy: &Buffer,
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        let GraphConv { inputs, outputs, weight, bias } = *conv;
        if conv.sums_first() {
            let ids = (weight, bias);
            let back = self.rows_times_back(z, dy, (inputs, outputs), ids, gradients, wants_input)?;
            let spread = |dz: Rc<Buffer>| self.spread(&dz, Toward::Source, self.gpu.zeros(dz.len())?, inputs);
            return Ok(back.map(spread).transpose()?.map(Rc::new));
        }
        self.bias_back(bias, dy, gradients)?;
        let dh = self.spread(dy, Toward::Source, self.gpu.zeros(dy.len())?, outputs)?;
        self.project_back(z, &dh, (inputs, outputs), weight, gradients, wants_input)
    }

    /// Adds to `sums` what edges give, by their weights.
    fn spread(&self, x: &Buffer, toward: Toward, sums: Buffer, dims: usize) -> Result<Buffer, GpuError> {
        let (mut sums, edges) = (sums, self.edges());
        let sizes = NodeHeads { heads: 1, width: dims };
        self.gpu.kernels.neighbour_sums(
            &self.gpu.stream,
            (edges, toward),
            (&mut sums, whole(dims)),
            (x, whole(dims)),
            &edges.weights,
            sizes,
        )?;
        Ok(sums)
    }

    fn graph_attention(
        &self,
        attention: &GraphAttention,
        x: Rc<Buffer>,
        nodes: usize,
    ) -> Result<(Buffer, Saved), GpuError> {
        let (gpu, stream, kernels, edges) = (self.gpu, &self.gpu.stream, &self.gpu.kernels, self.edges());
        let GraphAttention { inputs, outputs, heads, weight, source, target, bias } = *attention;
        let sizes = NodeHeads { heads, width: outputs / heads };
        let h = self.project(&x, nodes, (inputs, outputs), weight)?;
        let dots = |id: ParamId| -> Result<Buffer, GpuError> {
            let mut dots = gpu.alloc(nodes * heads)?;
            kernels.head_dots(stream, &mut dots, &h, &self.of(id), sizes)?;
            Ok(dots)
        };
        let (of_source, of_target) = (dots(source)?, dots(target)?);
        let mut scores = gpu.zeros(edges.values(heads))?;
        kernels.edge_scores(stream, edges, &mut scores, [&of_source, &of_target], heads)?;
        let mut shares = gpu.alloc(scores.len())?;
        kernels.leaky_relu(stream, &mut shares, &scores)?;
        kernels.edge_softmax(stream, edges, &mut shares, heads)?;
        let mut y = self.repeated(bias, nodes)?;
        let part = whole(outputs);
        kernels.neighbour_sums(
            stream,
            (edges, Toward::Target),
            (&mut y, part),
            (&h, part),
            &shares,
            sizes,
        )?;
        Ok((y, Saved::Attention { x, h, scores, shares }))
    }

    fn graph_attention_back(
        &self,
        attention: &GraphAttention,
        [x, h, scores, shares]: [&Buffer; 4],
        dy: &Buffer,
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        let (gpu, stream, kernels, edges) = (self.gpu, &self.gpu.stream, &self.gpu.kernels, self.edges());
        let GraphAttention { inputs, outputs, heads, weight, source, target, bias } = *attention;
        let (sizes, part, nodes) =
            (NodeHeads { heads, width: outputs / heads }, whole(outputs), dy.len() / outputs);
        self.bias_back(bias, dy, gradients)?;
        let mut slopes = gpu.zeros(shares.len())?;
        kernels.edge_dots(stream, edges, &mut slopes, (dy, part), (h, part), sizes, 1.0)?;
        kernels.edge_softmax_back(stream, edges, &mut slopes, shares, heads, 1.0)?;
        kernels.leaky_relu_back(stream, &mut slopes, scores)?;
        let mut dh = gpu.zeros(h.len())?;
        kernels.neighbour_sums(
            stream,
            (edges, Toward::Source),
            (&mut dh, part),
            (dy, part),
            shares,
            sizes,
        )?;
        for (id, toward) in [(source, Toward::Source), (target, Toward::Target)] {
            let mut of_node = gpu.alloc(nodes * heads)?;
            kernels.edge_sums(stream, (edges, toward), &mut of_node, &slopes, heads)?;
            kernels.add_vectors(stream, &mut dh, &self.of(id), &of_node, sizes)?;
            let mut scaled = gpu.alloc(h.len())?;
            kernels.scale_heads(stream, &mut scaled, h, &of_node, sizes)?;
            self.bias_back(id, &scaled, gradients)?;
        }
        self.project_back(x, &dh, (inputs, outputs), weight, gradients, wants_input)
    }

    fn neighbour_attention(
        &self,
        attention: &NeighbourAttention,
        x: Rc<Buffer>,
        nodes: usize,
    ) -> Result<(Buffer, Saved), GpuError> {
        let (gpu, stream, kernels, edges) = (self.gpu, &self.gpu.stream, &self.gpu.kernels, self.edges());
        let (sizes, dim) = of_nodes(attention);
        let qkv = self.rows_times(&x, nodes, (dim, 3 * dim), attention.qkv)?;
        let part = |number: usize| Part::new(number, 3, dim);
        let mut shares = gpu.zeros(edges.values(sizes.heads))?;
        let (q, k) = ((&qkv, part(QUERY)), (&qkv, part(KEY)));
        kernels.edge_dots(stream, edges, &mut shares, q, k, sizes, scale(sizes))?;
        kernels.edge_softmax(stream, edges, &mut shares, sizes.heads)?;
        let mut sums = gpu.zeros(nodes * dim)?;
        let (y, v) = ((&mut sums, whole(dim)), (&qkv, part(VALUE)));
        kernels.neighbour_sums(stream, (edges, Toward::Target), y, v, &shares, sizes)?;
        let y = self.rows_times(&sums, nodes, (dim, dim), attention.proj)?;
        Ok((y, Saved::Neighbours { x, qkv, shares, sums }))
    }

    fn neighbour_attention_back(
        &self,
        attention: &NeighbourAttention,
        [x, qkv, shares, sums]: [&Buffer; 4],
        dy: &Buffer,
        gradients: &mut Buffer,
        wants_input: bool,
    ) -> Result<Option<Rc<Buffer>>, GpuError> {
        let (gpu, stream, kernels, edges) = (self.gpu, &self.gpu.stream, &self.gpu.kernels, self.edges());
        let (sizes, dim) = of_nodes(attention);
        let back = self.rows_times_back(sums, dy, (dim, dim), attention.proj, gradients, true)?;
        let Some(dsums) = back else { return Ok(None) };
        let part = |number: usize| Part::new(number, 3, dim);
        let mut slopes = gpu.zeros(shares.len())?;
        let (of_sums, v) = ((&*dsums, whole(dim)), (qkv, part(VALUE)));
        kernels.edge_dots(stream, edges, &mut slopes, of_sums, v, sizes, 1.0)?;
        kernels.edge_softmax_back(stream, edges, &mut slopes, shares, sizes.heads, scale(sizes))?;
        let mut dqkv = gpu.zeros(qkv.len())?;
        for (number, toward, x, by) in [
            (QUERY, Toward::Target, (qkv, part(KEY)), &slopes),
            (KEY, Toward::Source, (qkv, part(QUERY)), &slopes),
            (VALUE, Toward::Source, of_sums, shares),
        ] {
            kernels.neighbour_sums(stream, (edges, toward), (&mut dqkv, part(number)), x, by, sizes)?;
        }
        self.rows_times_back(x, &dqkv, (dim, 3 * dim), attention.qkv, gradients, wants_input)
    }
}

fn of_nodes(attention: &NeighbourAttention) -> (NodeHeads, usize) {
    let (heads, dim) = (attention.heads(), attention.dim());
    (NodeHeads { heads, width: dim / heads }, dim)
}

/// What agreements are multiplied by: 1/√width.
fn scale(sizes: NodeHeads) -> f32 {
    1.0 / (sizes.width as f32).sqrt()
}
