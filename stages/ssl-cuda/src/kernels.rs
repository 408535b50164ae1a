//! The kernels of `kernels.cu`, compiled when a GPU is opened, as functions that know their sizes.

use std::sync::Arc;

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg,
    },
    nvrtc::{CompileError, Ptx, compile_ptx},
};

use crate::gpu::{Buffer, GpuError, View, ViewMut};

const SOURCE: &str = include_str!("kernels.cu");

/// Threads of a block.
const THREADS: u32 = 256;

/// Rows of which one partial sum is made.
const CHUNK: usize = 128;

/// Values of which one sum of squares is made.
const SQUARES: usize = 1 << 16;

/// Sizes of a convolution, as the kernels have them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Windows {
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) channels: u32,
    pub(crate) side: u32,
    pub(crate) stride: u32,
    pub(crate) padding: u32,
    pub(crate) out_height: u32,
    pub(crate) out_width: u32,
}

// SAFETY: eight numbers in C's layout, as the kernels declare them.
#[expect(unsafe_code, reason = "a promise about layout")]
unsafe impl DeviceRepr for Windows {}

/// Sizes of an attention: tokens of a sequence, heads, values of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) tokens: usize,
    pub(crate) heads: usize,
    pub(crate) width: usize,
}

/// Sizes of a norm: pixels of an item, channels of a pixel, groups of channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    pub(crate) pixels: usize,
    pub(crate) channels: usize,
    pub(crate) groups: usize,
}

macro_rules! kernels {
    ($($name:ident)+) => {
        /// Compiled kernels.
        pub(crate) struct Kernels {
            $($name: CudaFunction,)+
        }

        impl Kernels {
            fn of(module: &Arc<CudaModule>) -> Result<Self, GpuError> {
                Ok(Self { $($name: module.load_function(stringify!($name))?,)+ })
            }
        }
    };
}

kernels! {
    add scale mask repeat relu relu_back gelu gelu_back column_parts add_parts gather gather_fours scatter scatter_fours normalise normalise_back
    norm_parts pool pool_back by_head by_head_back softmax softmax_back neighbour_sums edge_dots edge_scores leaky_relu leaky_relu_back
    edge_softmax edge_softmax_back edge_sums head_dots scale_heads add_vectors square_parts adamw trust sgd follow
}

/// Launches a kernel with these arguments. Who calls it has checked that the kernel stays within its buffers.
macro_rules! launch {
    ($stream:expr, $function:expr, $config:expr; $($argument:expr),+ $(,)?) => {{
        let config = $config;
        let mut launch = $stream.launch_builder(&$function);
        $(launch.arg($argument);)+
        // SAFETY: the arguments are those of the kernel, in its order and types, and every function of this file asserts that its
        // buffers have the sizes up to which the kernel reads and writes.
        #[expect(unsafe_code, reason = "a kernel is C")]
        unsafe { launch.launch(config) }.map(|_| ()).map_err(GpuError::from)
    }};
}

mod graph;

pub(crate) use graph::{Edges, NodeHeads, Part, Toward};

/// A thread for each of `count` values.
fn each(count: usize) -> LaunchConfig {
    let blocks = (count as u64).div_ceil(u64::from(THREADS)).max(1) as u32;
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// A block for each of `count` rows of `length` values: as many threads as have work, a power of two.
fn blocks(count: usize, length: usize) -> LaunchConfig {
    let threads = (length.next_power_of_two() as u32).clamp(32, THREADS);
    LaunchConfig { grid_dim: (count as u32, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// Blocks over 32 columns and [`CHUNK`] rows, and how many there are of the latter.
fn columns(rows: usize, columns: usize) -> (LaunchConfig, usize) {
    let parts = rows.div_ceil(CHUNK).max(1);
    let grid_dim = (columns.div_ceil(32) as u32, parts as u32, 1);
    (LaunchConfig { grid_dim, block_dim: (32, 8, 1), shared_mem_bytes: 0 }, parts)
}

type Done = Result<(), GpuError>;

impl Kernels {
    pub(crate) fn load(context: &Arc<CudaContext>) -> Result<Self, GpuError> {
        let ptx = compile().map_err(GpuError::Compile)?;
        Self::of(&context.load_module(ptx)?)
    }

    /// `sum += other`.
    pub(crate) fn add(&self, stream: &CudaStream, sum: &mut ViewMut, other: &View) -> Done {
        assert_eq!(sum.len(), other.len());
        let count = sum.len() as u64;
        launch!(stream, self.add, each(sum.len()); sum, other, &count)
    }

    /// `values *= by`.
    pub(crate) fn scale(&self, stream: &CudaStream, values: &mut Buffer, by: f32) -> Done {
        let count = values.len() as u64;
        launch!(stream, self.scale, each(values.len()); values, &by, &count)
    }

    /// Sets values to 0 where `kept` is 0.
    pub(crate) fn mask(&self, stream: &CudaStream, values: &mut Buffer, kept: &Buffer) -> Done {
        assert_eq!(values.len(), kept.len());
        let count = values.len() as u64;
        launch!(stream, self.mask, each(values.len()); values, kept, &count)
    }

    /// Every row of `rows` becomes `row`.
    pub(crate) fn repeat(&self, stream: &CudaStream, rows: &mut Buffer, row: &View) -> Done {
        assert!(rows.len().is_multiple_of(row.len().max(1)));
        let (columns, count) = (row.len() as u32, rows.len() as u64);
        launch!(stream, self.repeat, each(rows.len()); rows, row, &columns, &count)
    }

    pub(crate) fn relu(&self, stream: &CudaStream, y: &mut Buffer, x: &View) -> Done {
        assert_eq!(y.len(), x.len());
        let count = y.len() as u64;
        launch!(stream, self.relu, each(y.len()); y, x, &count)
    }

    /// From the gradient of a ReLU's output, and that output.
    pub(crate) fn relu_back(&self, stream: &CudaStream, dx: &mut Buffer, dy: &View, y: &View) -> Done {
        assert!(dx.len() == dy.len() && dx.len() == y.len());
        let count = dx.len() as u64;
        launch!(stream, self.relu_back, each(dx.len()); dx, dy, y, &count)
    }

    pub(crate) fn gelu(&self, stream: &CudaStream, y: &mut Buffer, x: &View) -> Done {
        assert_eq!(y.len(), x.len());
        let count = y.len() as u64;
        launch!(stream, self.gelu, each(y.len()); y, x, &count)
    }

    /// From the gradient of a GELU's output, and its input.
    pub(crate) fn gelu_back(&self, stream: &CudaStream, dx: &mut Buffer, dy: &View, x: &View) -> Done {
        assert!(dx.len() == dy.len() && dx.len() == x.len());
        let count = dx.len() as u64;
        launch!(stream, self.gelu_back, each(dx.len()); dx, dy, x, &count)
    }

    /// `sums += ` the sums of `x`'s columns.
    pub(crate) fn add_columns(&self, stream: &Arc<CudaStream>, sums: &mut ViewMut, x: &View) -> Done {
        let width = sums.len();
        let rows = x.len() / width.max(1);
        assert_eq!(x.len(), rows * width);
        let (config, parts) = columns(rows, width);
        let mut partial = uncleared(stream, parts * width)?;
        let (count, columns, chunk) = (rows as u32, width as u32, CHUNK as u32);
        launch!(stream, self.column_parts, config; &mut partial, x, &count, &columns, &chunk)?;
        self.add_parts(stream, sums, &partial, parts)
    }

    fn add_parts(&self, stream: &CudaStream, sums: &mut ViewMut, partial: &Buffer, parts: usize) -> Done {
        assert_eq!(partial.len(), parts * sums.len());
        let (count, columns) = (parts as u32, sums.len() as u32);
        let config = self::columns(1, sums.len()).0;
        launch!(stream, self.add_parts, config; sums, partial, &count, &columns)
    }

    /// The windows of images, a row each.
    pub(crate) fn gather(
        &self,
        stream: &CudaStream,
        matrix: &mut Buffer,
        images: &View,
        w: &Windows,
    ) -> Done {
        assert!(fits(w, images.len(), matrix.len()) && u32::try_from(matrix.len()).is_ok());
        let (function, count) = match w.channels.is_multiple_of(4) {
            true => (&self.gather_fours, matrix.len() / 4),
            false => (&self.gather, matrix.len()),
        };
        let (config, count) = (each(count), count as u32);
        launch!(stream, function, config; matrix, images, w, &count)
    }

    /// Windows added up where in the images they came from.
    pub(crate) fn scatter(
        &self,
        stream: &CudaStream,
        images: &mut ViewMut,
        matrix: &View,
        w: &Windows,
    ) -> Done {
        assert!(fits(w, images.len(), matrix.len()) && u32::try_from(matrix.len()).is_ok());
        let (function, count) = match w.channels.is_multiple_of(4) {
            true => (&self.scatter_fours, images.len() / 4),
            false => (&self.scatter, images.len()),
        };
        let (config, count) = (each(count), count as u32);
        launch!(stream, function, config; images, matrix, w, &count)
    }

    /// Normalised items; `moments` takes mean and 1/sd of each item and group.
    #[expect(clippy::too_many_arguments, reason = "as many as the kernel has")]
    pub(crate) fn normalise(
        &self,
        stream: &CudaStream,
        y: &mut Buffer,
        moments: &mut Buffer,
        x: &View,
        (gamma, beta): (&View, &View),
        sizes: Groups,
        has_relu: bool,
    ) -> Done {
        let items = sizes.items(x.len());
        assert!(y.len() == x.len() && moments.len() == 2 * items * sizes.groups);
        assert!(gamma.len() == sizes.channels && beta.len() == sizes.channels);
        let (pixels, channels, groups) = sizes.numbers();
        let has_relu = u32::from(has_relu);
        let config = blocks(items * sizes.groups, sizes.pixels * sizes.channels / sizes.groups);
        launch!(
            stream, self.normalise, config;
            y, moments, x, gamma, beta, &pixels, &channels, &groups, &has_relu
        )
    }

    /// The gradient of what was normalised.
    pub(crate) fn normalise_back(
        &self,
        stream: &CudaStream,
        dx: &mut Buffer,
        slopes: &Slopes,
        gamma: &View,
        sizes: Groups,
    ) -> Done {
        let Slopes { dy, y, x, moments, has_relu } = slopes;
        let items = slopes.items(sizes);
        assert!(dx.len() == x.len() && gamma.len() == sizes.channels);
        let ((pixels, channels, groups), has_relu) = (sizes.numbers(), u32::from(*has_relu));
        let config = blocks(items * sizes.groups, sizes.pixels * sizes.channels / sizes.groups);
        launch!(
            stream, self.normalise_back, config;
            dx, *dy, *y, *x, *moments, gamma, &pixels, &channels, &groups, &has_relu
        )
    }

    /// Parts of the gradients of a norm's scale and shift, for [`Kernels::add_norm_params`].
    pub(crate) fn norm_params(
        &self,
        stream: &Arc<CudaStream>,
        slopes: &Slopes,
        sizes: Groups,
    ) -> Result<[Buffer; 2], GpuError> {
        let Slopes { dy, y, x, moments, has_relu } = slopes;
        let rows = slopes.items(sizes) * sizes.pixels;
        let (config, parts) = columns(rows, sizes.channels);
        let [mut gammas, mut betas] =
            [uncleared(stream, parts * sizes.channels)?, uncleared(stream, parts * sizes.channels)?];
        let ((pixels, channels, groups), has_relu) = (sizes.numbers(), u32::from(*has_relu));
        let (count, chunk) = (rows as u32, CHUNK as u32);
        launch!(
            stream, self.norm_parts, config;
            &mut gammas, &mut betas, *dy, *y, *x, *moments, &count, &channels, &chunk, &pixels, &groups, &has_relu
        )?;
        Ok([gammas, betas])
    }

    /// Adds up what [`Kernels::norm_params`] gave.
    pub(crate) fn add_norm_params(&self, stream: &CudaStream, sums: &mut ViewMut, partial: &Buffer) -> Done {
        self.add_parts(stream, sums, partial, partial.len() / sums.len().max(1))
    }

    /// Images to the means of their channels.
    pub(crate) fn pool(
        &self,
        stream: &CudaStream,
        y: &mut Buffer,
        x: &View,
        (pixels, channels): (usize, usize),
    ) -> Done {
        assert_eq!(y.len() * pixels, x.len());
        let (pixels, channels, count) = (pixels as u32, channels as u32, y.len() as u64);
        launch!(stream, self.pool, each(y.len()); y, x, &pixels, &channels, &count)
    }

    pub(crate) fn pool_back(
        &self,
        stream: &CudaStream,
        dx: &mut Buffer,
        dy: &View,
        (pixels, channels): (usize, usize),
    ) -> Done {
        assert_eq!(dy.len() * pixels, dx.len());
        let (pixels, channels, count) = (pixels as u32, channels as u32, dx.len() as u64);
        launch!(stream, self.pool_back, each(dx.len()); dx, dy, &pixels, &channels, &count)
    }

    /// From token, part, head, width to part, sequence, head, token, width, for so many parts.
    pub(crate) fn by_head(
        &self,
        stream: &CudaStream,
        apart: &mut Buffer,
        tokens: &View,
        sizes: Heads,
        parts: usize,
    ) -> Done {
        assert!(apart.len() == tokens.len() && sizes.divide(apart.len(), parts));
        let ((length, heads, width), parts, count) = (sizes.numbers(), parts as u32, apart.len() as u64);
        launch!(stream, self.by_head, each(apart.len()); apart, tokens, &length, &heads, &width, &parts, &count)
    }

    /// And back.
    pub(crate) fn by_head_back(
        &self,
        stream: &CudaStream,
        tokens: &mut Buffer,
        apart: &View,
        sizes: Heads,
        parts: usize,
    ) -> Done {
        assert!(apart.len() == tokens.len() && sizes.divide(apart.len(), parts));
        let ((length, heads, width), parts, count) = (sizes.numbers(), parts as u32, apart.len() as u64);
        launch!(stream, self.by_head_back, each(apart.len()); tokens, apart, &length, &heads, &width, &parts, &count)
    }

    /// Rows to their softmax.
    pub(crate) fn softmax(&self, stream: &CudaStream, rows: &mut Buffer, columns: usize) -> Done {
        assert!(rows.len().is_multiple_of(columns));
        let (config, columns) = (blocks(rows.len() / columns, columns), columns as u32);
        launch!(stream, self.softmax, config; rows, &columns)
    }

    /// The gradient of a softmax, in its place, to that of what it was of.
    pub(crate) fn softmax_back(
        &self,
        stream: &CudaStream,
        slopes: &mut Buffer,
        weights: &Buffer,
        columns: usize,
    ) -> Done {
        assert!(slopes.len() == weights.len() && slopes.len().is_multiple_of(columns));
        let (config, columns) = (blocks(slopes.len() / columns, columns), columns as u32);
        launch!(stream, self.softmax_back, config; slopes, weights, &columns)
    }

    /// The sum of all values' squares.
    pub(crate) fn squares(&self, stream: &Arc<CudaStream>, values: &Buffer) -> Result<f64, GpuError> {
        let parts = values.len().div_ceil(SQUARES).max(1);
        let mut partial = stream.alloc_zeros::<f64>(parts)?;
        let (count, chunk) = (values.len() as u64, SQUARES as u64);
        launch!(stream, self.square_parts, blocks(parts, SQUARES); &mut partial, values, &count, &chunk)?;
        Ok(stream.clone_dtoh(&partial)?.iter().sum())
    }

    /// See [`restage_nn::Update::AdamW`].
    pub(crate) fn adamw(
        &self,
        stream: &CudaStream,
        [values, gradients, first, second]: [&mut Buffer; 4],
        decays: &Buffer,
        (rate, root, shrink): (f32, f32, f32),
    ) -> Done {
        let count = values.len();
        assert!([gradients.len(), first.len(), second.len(), decays.len()] == [count; 4]);
        let (config, count) = (each(count), count as u64);
        launch!(
            stream, self.adamw, config;
            values, gradients, first, second, decays, &rate, &root, &shrink, &count
        )
    }

    /// What LARS multiplies each parameter's gradient by; a parameter begins where the one before ends.
    pub(crate) fn trust(
        &self,
        stream: &Arc<CudaStream>,
        [values, gradients, decays]: [&Buffer; 3],
        starts: &[u64],
        (decay, eta): (f32, f32),
    ) -> Result<Buffer, GpuError> {
        let params = starts.len() - 1;
        assert!(starts.is_sorted() && starts.last() == Some(&(values.len() as u64)));
        assert!(gradients.len() == values.len() && decays.len() == values.len());
        let mut trusts = stream.alloc_zeros::<f32>(params)?;
        let starts: CudaSlice<u64> = stream.clone_htod(starts)?;
        let config = blocks(params, THREADS as usize);
        launch!(stream, self.trust, config; &mut trusts, values, gradients, decays, &starts, &decay, &eta)?;
        Ok(trusts)
    }

    /// See [`restage_nn::Update::Sgd`]; `of` says which parameter's trust is a value's.
    pub(crate) fn sgd(
        &self,
        stream: &CudaStream,
        [values, gradients, velocity]: [&mut Buffer; 3],
        decays: &Buffer,
        (trusts, of): (&Buffer, &CudaSlice<u32>),
        (rate, momentum, decay): (f32, f32, f32),
    ) -> Done {
        let count = values.len();
        assert!([gradients.len(), velocity.len(), decays.len(), of.len()] == [count; 4]);
        let (config, count) = (each(count), count as u64);
        launch!(
            stream, self.sgd, config;
            values, gradients, velocity, decays, trusts, of, &rate, &momentum, &decay, &count
        )
    }

    /// `values = kept values + (1 - kept) other`.
    pub(crate) fn follow(&self, stream: &CudaStream, values: &mut Buffer, other: &Buffer, kept: f32) -> Done {
        assert_eq!(values.len(), other.len());
        let count = values.len() as u64;
        launch!(stream, self.follow, each(values.len()); values, other, &kept, &count)
    }
}

/// What the way back through a norm starts from.
pub(crate) struct Slopes<'a> {
    /// The gradient of what came out.
    pub(crate) dy: &'a View<'a>,
    /// What came out.
    pub(crate) y: &'a View<'a>,
    /// What went in.
    pub(crate) x: &'a View<'a>,
    pub(crate) moments: &'a Buffer,
    /// Whether a ReLU is the last of it.
    pub(crate) has_relu: bool,
}

impl Slopes<'_> {
    /// How many items there are, all of these sizes.
    fn items(&self, sizes: Groups) -> usize {
        let items = sizes.items(self.x.len());
        assert!(self.dy.len() == self.x.len() && self.y.len() == self.x.len());
        assert_eq!(self.moments.len(), 2 * items * sizes.groups);
        items
    }
}

/// Memory for so many values, all of which the next kernel writes.
fn uncleared(stream: &Arc<CudaStream>, count: usize) -> Result<Buffer, GpuError> {
    // SAFETY: any bits are an `f32`.
    #[expect(unsafe_code, reason = "memory is not cleared")]
    let buffer = unsafe { stream.alloc(count) };
    Ok(buffer?)
}

impl Groups {
    fn items(self, values: usize) -> usize {
        assert!(
            values.is_multiple_of(self.pixels * self.channels) && self.channels.is_multiple_of(self.groups)
        );
        values / (self.pixels * self.channels)
    }

    fn numbers(self) -> (u32, u32, u32) {
        (self.pixels as u32, self.channels as u32, self.groups as u32)
    }
}

impl Heads {
    fn divide(self, values: usize, parts: usize) -> bool {
        values.is_multiple_of(self.tokens * self.heads * self.width * parts)
    }

    fn numbers(self) -> (u32, u32, u32) {
        (self.tokens as u32, self.heads as u32, self.width as u32)
    }
}

/// Whether so many values of images make so many of windows.
fn fits(w: &Windows, images: usize, matrix: usize) -> bool {
    let image = w.height as usize * w.width as usize * w.channels as usize;
    let windows = w.out_height as usize * w.out_width as usize;
    images.is_multiple_of(image)
        && images / image * windows * (w.side * w.side * w.channels) as usize == matrix
}

pub(crate) fn compile() -> Result<Ptx, CompileError> {
    compile_ptx(SOURCE)
}
