//! A GPU: its memory, products of matrices on it, and its kernels. All `unsafe` of this plugin is here, in `kernels.rs` and in
//! `libraries.rs`; above them are matrices with sizes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::{
    cublas::{
        CudaBlas, Gemm, GemmConfig, StridedBatchedConfig,
        result::CublasError,
        sys::cublasOperation_t::{self, CUBLAS_OP_N, CUBLAS_OP_T},
    },
    driver::{
        CudaContext, CudaEvent, CudaSlice, CudaStream, CudaView, CudaViewMut, DriverError, PinnedHostSlice,
        result::{self, mem_pool},
        sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
    },
    nvrtc::CompileError,
};

use crate::{
    kernels::Kernels,
    libraries::{self, Missing},
};

/// Values in a GPU's memory.
pub(crate) type Buffer = CudaSlice<f32>;
/// Some of them, to read.
pub(crate) type View<'a> = CudaView<'a, f32>;
/// Some of them, to write.
pub(crate) type ViewMut<'a> = CudaViewMut<'a, f32>;

/// Why a GPU cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GpuError {
    /// A library that is not there.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// No card, or none of that number.
    #[error(
        "there is no GPU {wanted}: {found} can be seen (CUDA_VISIBLE_DEVICES, `resources: {{ gpus: 1 }}`)"
    )]
    NoCard {
        /// Its number.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// From the driver: out of memory, above all.
    #[error("the driver says: {0}")]
    Driver(#[from] DriverError),
    /// From cuBLAS.
    #[error("cuBLAS says: {0:?}")]
    Blas(CublasError),
    /// A library that lacks functions.
    #[error("the driver or a CUDA library here is too old: CUDA 12 or newer is needed")]
    TooOld,
    /// A graph that kernels cannot number.
    #[error("the graph has {edges} edges: a GPU takes 4,294,967,295 at most")]
    TooLarge {
        /// How many it has.
        edges: usize,
    },
    /// Parameters that are to follow others, which are not on this GPU.
    #[error("a running mean follows parameters that are elsewhere")]
    Stranger,
    /// From the compiler of kernels.
    #[error("NVRTC cannot compile the kernels: {0:?}")]
    Compile(CompileError),
}

/// A GPU, ready.
pub(crate) struct Gpu {
    pub(crate) stream: Arc<CudaStream>,
    blas: CudaBlas,
    pub(crate) kernels: Kernels,
    name: String,
    /// By their length.
    staging: Mutex<HashMap<usize, Staging>>,
}

/// Memory of this machine that the GPU can copy from by itself.
struct Staging {
    memory: PinnedHostSlice<f32>,
    /// The last copy from there.
    copied: CudaEvent,
}

/// How many lengths of staging memory are kept: batches of an epoch have two, of few networks.
const LENGTHS: usize = 16;

/// A matrix, row by row, that is a factor of a product: itself or transposed.
#[derive(Clone, Copy)]
pub(crate) struct Factor {
    /// As it lies.
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl Factor {
    /// As it lies.
    pub(crate) fn new(rows: usize, columns: usize) -> Self {
        Self { rows, columns, transposed: false }
    }

    /// Its columns are rows.
    pub(crate) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn sizes(self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    fn operation(self) -> cublasOperation_t {
        if self.transposed { CUBLAS_OP_T } else { CUBLAS_OP_N }
    }

    fn len(self) -> usize {
        self.rows * self.columns
    }
}

impl Gpu {
    /// The GPU of this number, with kernels compiled.
    ///
    /// # Errors
    /// If there is none, or a library that it needs is missing.
    pub(crate) fn open(number: usize) -> Result<Self, GpuError> {
        libraries::load()?;
        let found = match CudaContext::device_count() {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(error) if error.0 == cudarc::driver::sys::CUresult::CUDA_ERROR_NO_DEVICE => 0,
            Err(error) => return Err(error.into()),
        };
        if number >= found {
            return Err(GpuError::NoCard { wanted: number, found });
        }
        let context = CudaContext::new(number)?;
        // SAFETY: the events would order several streams; here is one.
        #[expect(unsafe_code, reason = "cudarc's name for it")]
        unsafe {
            context.disable_event_tracking();
        }
        keep_freed_memory(&context)?;
        let stream = context.default_stream();
        let blas = CudaBlas::new(stream.clone()).map_err(GpuError::Blas)?;
        let kernels = Kernels::load(&context)?;
        let name = context.name()?;
        Ok(Self { stream, blas, kernels, name, staging: Mutex::default() })
    }

    /// Its model.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Memory for so many values, which hold anything: whoever takes it writes them all.
    pub(crate) fn alloc(&self, count: usize) -> Result<Buffer, GpuError> {
        // SAFETY: any bits are an `f32`.
        #[expect(unsafe_code, reason = "memory is not cleared")]
        let buffer = unsafe { self.stream.alloc(count) };
        Ok(buffer?)
    }

    /// Zeros.
    pub(crate) fn zeros(&self, count: usize) -> Result<Buffer, GpuError> {
        Ok(self.stream.alloc_zeros(count)?)
    }

    /// A copy of these.
    pub(crate) fn upload(&self, values: &[f32]) -> Result<Buffer, GpuError> {
        self.upload_from(values.len(), &|staging| staging.copy_from_slice(values))
    }

    /// So many values, all of which `write` writes.
    pub(crate) fn upload_from(&self, count: usize, write: &dyn Fn(&mut [f32])) -> Result<Buffer, GpuError> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if staging.len() > LENGTHS {
            self.stream.synchronize()?;
            staging.clear();
        }
        let Staging { memory, copied } = match staging.entry(count) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                // SAFETY: any bits are an `f32`, and `write` writes them all before they are read.
                #[expect(unsafe_code, reason = "memory is not cleared")]
                let memory = unsafe { self.stream.context().alloc_pinned(count)? };
                place.insert(Staging { memory, copied: self.stream.context().new_event(None)? })
            }
        };
        copied.synchronize()?;
        write(memory.as_mut_slice()?);
        let buffer = self.stream.clone_htod(memory)?;
        copied.record(&self.stream)?;
        Ok(buffer)
    }

    /// A copy of these here; waits for all that was asked of the GPU before.
    pub(crate) fn download(&self, values: &View) -> Result<Vec<f32>, GpuError> {
        Ok(self.stream.clone_dtoh(values)?)
    }

    /// `c = a b + beta c`.
    pub(crate) fn product(
        &self,
        (a, a_is): (&View, Factor),
        (b, b_is): (&View, Factor),
        beta: f32,
        c: &mut ViewMut,
    ) -> Result<(), GpuError> {
        let gemm = config(a_is, b_is, 1.0, beta);
        assert!(
            a.len() == a_is.len() && b.len() == b_is.len() && c.len() == a_is.sizes().0 * b_is.sizes().1,
            "matrices of these sizes"
        );
        // Products of transposed matrices, since cuBLAS has columns where we have rows.
        // SAFETY: all three matrices are as large as the sizes say, checked above and in `config`.
        #[expect(unsafe_code, reason = "a C function")]
        unsafe {
            self.blas.gemm(gemm, b, a, c).map_err(GpuError::Blas)
        }
    }

    /// The same for `batch` products at once, whose matrices lie one after the other; `alpha` times `a b`.
    pub(crate) fn products(
        &self,
        batch: usize,
        (a, a_is): (&View, Factor),
        (b, b_is): (&View, Factor),
        alpha: f32,
        c: &mut ViewMut,
    ) -> Result<(), GpuError> {
        let size = a_is.sizes().0 * b_is.sizes().1;
        assert!(
            a.len() == batch * a_is.len() && b.len() == batch * b_is.len() && c.len() == batch * size,
            "matrices of these sizes"
        );
        let config = StridedBatchedConfig {
            gemm: config(a_is, b_is, alpha, 0.0),
            batch_size: batch as i32,
            stride_a: b_is.len() as i64,
            stride_b: a_is.len() as i64,
            stride_c: size as i64,
        };
        // SAFETY: as in `product`, for each of the batch.
        #[expect(unsafe_code, reason = "a C function")]
        unsafe {
            self.blas.gemm_strided_batched(config, b, a, c).map_err(GpuError::Blas)
        }
    }
}

fn config(a: Factor, b: Factor, alpha: f32, beta: f32) -> GemmConfig<f32> {
    let ((rows, inner), (other, columns)) = (a.sizes(), b.sizes());
    assert_eq!(inner, other, "columns of the left matrix, rows of the right one");
    GemmConfig {
        transa: b.operation(),
        transb: a.operation(),
        m: columns as i32,
        n: rows as i32,
        k: inner as i32,
        alpha,
        lda: b.columns as i32,
        ldb: a.columns as i32,
        beta,
        ldc: columns as i32,
    }
}

/// Tells the driver not to give freed memory back between steps: the next step takes the same.
fn keep_freed_memory(context: &CudaContext) -> Result<(), GpuError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    // SAFETY: the device is that of a living context, and the attribute's value a `u64`, which is read during the call.
    #[expect(unsafe_code, reason = "C functions")]
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        mem_pool::set_attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut all).cast())?;
    }
    Ok(())
}
