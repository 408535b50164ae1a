//! Kernels on graphs: what nodes take of those that they have edges from.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, PushKernelArg};
use restage_nn::{Lists, Sparse};

use super::{Done, Kernels, each};
use crate::gpu::{Buffer, GpuError, View};

/// The edges of a graph on a GPU.
pub(crate) struct Edges {
    nodes: usize,
    count: usize,
    to: Direction,
    from: Direction,
    /// Per edge the node that it leads to.
    targets: CudaSlice<u32>,
    /// Per edge, in the order of the nodes that they lead to.
    pub(crate) weights: Buffer,
}

/// Edges as lists per node.
struct Direction {
    ends: CudaSlice<u32>,
    others: CudaSlice<u32>,
    /// Per edge its place in the order of the nodes that edges lead to.
    place: CudaSlice<u32>,
}

/// Which lists of edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toward {
    /// Those that lead to a node: forward.
    Target,
    /// Those that lead from a node: back.
    Source,
}

impl Edges {
    /// A copy of a graph's edges.
    pub(crate) fn upload(stream: &Arc<CudaStream>, edges: &Sparse) -> Result<Self, GpuError> {
        edges_fit(edges)?;
        let (by_row, by_column) = (edges.by_row(), edges.by_column());
        let in_order: Vec<usize> = (0..edges.entries()).collect();
        let lists = |row: usize| by_row.ends()[row]..by_row.ends()[row + 1];
        let targets: Vec<usize> = (0..edges.rows()).flat_map(|row| lists(row).map(move |_| row)).collect();
        // Memory of no length there is none on a GPU.
        let weights = if edges.entries() > 0 { edges.weights() } else { &[0.0] };
        Ok(Self {
            nodes: edges.rows(),
            count: edges.entries(),
            to: Direction::upload(stream, by_row, &in_order)?,
            from: Direction::upload(stream, by_column, edges.place())?,
            targets: numbers(stream, &targets)?,
            weights: stream.clone_htod(weights)?,
        })
    }

    /// Values of all edges, of so many heads.
    pub(crate) fn values(&self, heads: usize) -> usize {
        (self.count * heads).max(1)
    }

    fn lists(&self, toward: Toward) -> &Direction {
        match toward {
            Toward::Target => &self.to,
            Toward::Source => &self.from,
        }
    }
}

impl Direction {
    fn upload(stream: &Arc<CudaStream>, lists: &Lists, place: &[usize]) -> Result<Self, GpuError> {
        Ok(Self {
            ends: numbers(stream, lists.ends())?,
            others: numbers(stream, lists.others())?,
            place: numbers(stream, place)?,
        })
    }
}

/// A graph among its own nodes, whose edges a `u32` counts.
fn edges_fit(edges: &Sparse) -> Result<(), GpuError> {
    assert_eq!(edges.rows(), edges.columns(), "nodes of a graph");
    match u32::try_from(edges.entries().max(edges.rows())) {
        Ok(_) => Ok(()),
        Err(_) => Err(GpuError::TooLarge { edges: edges.entries() }),
    }
}

fn numbers(stream: &Arc<CudaStream>, numbers: &[usize]) -> Result<CudaSlice<u32>, GpuError> {
    let mut numbers: Vec<u32> = numbers.iter().map(|number| *number as u32).collect();
    if numbers.is_empty() {
        numbers.push(0);
    }
    Ok(stream.clone_htod(&numbers)?)
}

/// Which values of a node's row a kernel reads or writes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Part {
    stride: u32,
    offset: u32,
}

// SAFETY: two numbers in C's layout, as the kernels declare them.
#[expect(unsafe_code, reason = "a promise about layout")]
unsafe impl DeviceRepr for Part {}

impl Part {
    /// This one, from 0, of so many parts of as many values each.
    pub(crate) fn new(number: usize, parts: usize, values: usize) -> Self {
        assert!(number < parts);
        Self { stride: (parts * values) as u32, offset: (number * values) as u32 }
    }
}

/// Sizes of what is known of a node: heads, and values of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeHeads {
    pub(crate) heads: usize,
    pub(crate) width: usize,
}

impl NodeHeads {
    fn dims(self) -> usize {
        self.heads * self.width
    }

    fn numbers(self) -> (u32, u32) {
        (self.heads as u32, self.width as u32)
    }

    /// Whether so many values are rows of nodes that have such a part.
    fn fits(self, part: Part, nodes: usize, values: usize) -> bool {
        let (stride, offset) = (part.stride as usize, part.offset as usize);
        values == nodes * stride && offset + self.dims() <= stride
    }
}

impl Kernels {
    /// Adds to each node the sum over its edges: the other node's values, times the edge's share for their head.
    pub(crate) fn neighbour_sums(
        &self,
        stream: &CudaStream,
        (edges, toward): (&Edges, Toward),
        (y, of_y): (&mut Buffer, Part),
        (x, of_x): (&Buffer, Part),
        shares: &Buffer,
        sizes: NodeHeads,
    ) -> Done {
        assert!(sizes.fits(of_y, edges.nodes, y.len()) && sizes.fits(of_x, edges.nodes, x.len()));
        assert_eq!(shares.len(), edges.values(sizes.heads));
        let Direction { ends, others, place } = edges.lists(toward);
        let ((heads, width), count) = (sizes.numbers(), (edges.nodes * sizes.dims()) as u64);
        launch!(
            stream, self.neighbour_sums, each(count as usize);
            y, &of_y, x, &of_x, shares, ends, others, place, &heads, &width, &count
        )
    }

    /// Per edge and head the product of what `a` has of the node that it leads to with what `b` has of the other, times `by`.
    #[expect(clippy::too_many_arguments, reason = "as many as the kernel has")]
    pub(crate) fn edge_dots(
        &self,
        stream: &CudaStream,
        edges: &Edges,
        dots: &mut Buffer,
        (a, of_a): (&Buffer, Part),
        (b, of_b): (&Buffer, Part),
        sizes: NodeHeads,
        by: f32,
    ) -> Done {
        assert!(sizes.fits(of_a, edges.nodes, a.len()) && sizes.fits(of_b, edges.nodes, b.len()));
        assert_eq!(dots.len(), edges.values(sizes.heads));
        let ((heads, width), count) = (sizes.numbers(), (edges.count * sizes.heads) as u64);
        let (targets, others) = (&edges.targets, &edges.to.others);
        launch!(
            stream, self.edge_dots, each(count as usize);
            dots, a, &of_a, b, &of_b, targets, others, &heads, &width, &by, &count
        )
    }

    /// Per edge and head the sum of what its source and its target have.
    pub(crate) fn edge_scores(
        &self,
        stream: &CudaStream,
        edges: &Edges,
        scores: &mut Buffer,
        [of_source, of_target]: [&Buffer; 2],
        heads: usize,
    ) -> Done {
        assert!([of_source.len(), of_target.len()] == [edges.nodes * heads; 2]);
        assert_eq!(scores.len(), edges.values(heads));
        let (heads, count) = (heads as u32, (edges.count * heads) as u64);
        let (targets, others) = (&edges.targets, &edges.to.others);
        launch!(
            stream, self.edge_scores, each(count as usize);
            scores, of_source, of_target, targets, others, &heads, &count
        )
    }

    /// With a slope of 0.2 below 0.
    pub(crate) fn leaky_relu(&self, stream: &CudaStream, y: &mut Buffer, x: &Buffer) -> Done {
        assert_eq!(y.len(), x.len());
        let count = x.len() as u64;
        launch!(stream, self.leaky_relu, each(x.len()); y, x, &count)
    }

    /// From the gradient of what came out, in its place.
    pub(crate) fn leaky_relu_back(&self, stream: &CudaStream, slopes: &mut Buffer, x: &Buffer) -> Done {
        assert_eq!(slopes.len(), x.len());
        let count = x.len() as u64;
        launch!(stream, self.leaky_relu_back, each(x.len()); slopes, x, &count)
    }

    /// The scores of the edges that lead to a node, to their softmax.
    pub(crate) fn edge_softmax(
        &self,
        stream: &CudaStream,
        edges: &Edges,
        scores: &mut Buffer,
        heads: usize,
    ) -> Done {
        assert_eq!(scores.len(), edges.values(heads));
        let (heads, count) = (heads as u32, (edges.nodes * heads) as u64);
        launch!(stream, self.edge_softmax, each(count as usize); scores, &edges.to.ends, &heads, &count)
    }

    /// The gradient of such a softmax, in its place, to that of what it was of, times `by`.
    pub(crate) fn edge_softmax_back(
        &self,
        stream: &CudaStream,
        edges: &Edges,
        slopes: &mut Buffer,
        shares: &Buffer,
        heads: usize,
        by: f32,
    ) -> Done {
        assert!([slopes.len(), shares.len()] == [edges.values(heads); 2]);
        let (heads, count) = (heads as u32, (edges.nodes * heads) as u64);
        launch!(
            stream, self.edge_softmax_back, each(count as usize);
            slopes, shares, &edges.to.ends, &heads, &by, &count
        )
    }

    /// Per node and head the sum over its edges.
    pub(crate) fn edge_sums(
        &self,
        stream: &CudaStream,
        (edges, toward): (&Edges, Toward),
        sums: &mut Buffer,
        values: &Buffer,
        heads: usize,
    ) -> Done {
        assert!(sums.len() == edges.nodes * heads && values.len() == edges.values(heads));
        let Direction { ends, place, .. } = edges.lists(toward);
        let (heads, count) = (heads as u32, sums.len() as u64);
        launch!(stream, self.edge_sums, each(count as usize); sums, values, ends, place, &heads, &count)
    }

    /// Per node and head the product with the head's vector.
    pub(crate) fn head_dots(
        &self,
        stream: &CudaStream,
        dots: &mut Buffer,
        x: &Buffer,
        vectors: &View,
        sizes: NodeHeads,
    ) -> Done {
        assert!(dots.len() * sizes.width == x.len() && vectors.len() == sizes.dims());
        assert!(dots.len().is_multiple_of(sizes.heads));
        let ((heads, width), count) = (sizes.numbers(), dots.len() as u64);
        launch!(stream, self.head_dots, each(count as usize); dots, x, vectors, &heads, &width, &count)
    }

    /// Each head's values times the head's factor.
    pub(crate) fn scale_heads(
        &self,
        stream: &CudaStream,
        y: &mut Buffer,
        x: &Buffer,
        factors: &Buffer,
        sizes: NodeHeads,
    ) -> Done {
        assert!(y.len() == x.len() && factors.len() * sizes.width == x.len());
        let ((_, width), count) = (sizes.numbers(), x.len() as u64);
        launch!(stream, self.scale_heads, each(count as usize); y, x, factors, &width, &count)
    }

    /// Adds to each node its heads' vectors, each times the head's factor.
    pub(crate) fn add_vectors(
        &self,
        stream: &CudaStream,
        y: &mut Buffer,
        vectors: &View,
        factors: &Buffer,
        sizes: NodeHeads,
    ) -> Done {
        assert!(vectors.len() == sizes.dims() && factors.len() * sizes.width == y.len());
        let ((heads, width), count) = (sizes.numbers(), y.len() as u64);
        launch!(stream, self.add_vectors, each(count as usize); y, vectors, factors, &heads, &width, &count)
    }
}
