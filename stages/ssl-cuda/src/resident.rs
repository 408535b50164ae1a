//! Parameters in a GPU's memory: all of them in one piece, so that an optimizer's step is one kernel.

use std::{
    any::Any,
    fmt,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::driver::CudaSlice;
use restage_nn::{Device, Dims, Kind, Network, Param, ParamId, Pass, Resident, Sparse, Update};

use crate::{
    gpu::{Buffer, Gpu, GpuError},
    kernels::Edges,
    network::{Batch, Ranges, Weights, dims_after},
};

/// A GPU as networks see it.
pub(crate) struct Cuda {
    gpu: Arc<Gpu>,
}

impl Cuda {
    pub(crate) fn new(gpu: Arc<Gpu>) -> Self {
        Self { gpu }
    }
}

impl Device for Cuda {
    fn name(&self) -> &str {
        self.gpu.name()
    }

    fn place(&self, params: &[(ParamId, &Param)]) -> Result<Arc<dyn Resident>, String> {
        let placed = Placed::new(&self.gpu, params).map_err(|error| error.to_string())?;
        Ok(Arc::new(placed))
    }
}

/// Parameters on a GPU.
#[derive(Clone)]
struct Placed {
    gpu: Arc<Gpu>,
    layout: Arc<Layout>,
    state: Arc<Mutex<State>>,
    failure: Arc<Mutex<Option<String>>>,
}

/// How parameters lie in one piece of memory.
struct Layout {
    ranges: Ranges,
    /// In the order of their placing.
    windows: Vec<Option<Window>>,
    /// Where each begins, in the order of their placing, and where the last ends.
    starts: Vec<u64>,
    /// Per value: 1 where weight decay applies, else 0.
    decays: Buffer,
    /// Per value: which parameter it is of.
    of: CudaSlice<u32>,
}

/// Sizes of a convolution's weights, which PyTorch has as output, input, row, column, and a GPU as a window's values lie: output,
/// row, column, input.
#[derive(Clone, Copy)]
struct Window {
    inputs: usize,
    area: usize,
}

impl Window {
    fn of(shape: &[usize]) -> Option<Self> {
        match shape {
            [_, inputs, height, width] => Some(Self { inputs: *inputs, area: height * width }),
            _ => None,
        }
    }

    fn from_torch(window: Option<Self>, values: Vec<f32>) -> Vec<f32> {
        match window {
            Some(Self { inputs, area }) => transposed(&values, inputs, area),
            None => values,
        }
    }

    fn to_torch(window: Option<Self>, values: Vec<f32>) -> Vec<f32> {
        match window {
            Some(Self { inputs, area }) => transposed(&values, area, inputs),
            None => values,
        }
    }
}

/// Matrices of so many rows and columns, one after the other, each transposed.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let matrices = values.chunks_exact((rows * columns).max(1));
    let entry = move |matrix: &[f32], at: usize| matrix[at % rows * columns + at / rows];
    matrices.flat_map(|matrix| (0..matrix.len()).map(move |at| entry(matrix, at))).collect()
}

struct State {
    values: Buffer,
    /// Of parameters that are trained.
    training: Option<Training>,
    /// If some of them stay as they are.
    held: Option<Held>,
}

/// Which parameters move.
struct Held {
    /// Per value: 1 if it moves, else 0.
    moves: Buffer,
    /// Per value: 1 where weight decay applies and it moves, else 0.
    decays: Buffer,
}

struct Training {
    gradients: Buffer,
    first: Buffer,
    second: Buffer,
}

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parameters on {}", self.layout.starts.len() - 1, self.gpu.name())
    }
}

impl Placed {
    fn new(gpu: &Arc<Gpu>, params: &[(ParamId, &Param)]) -> Result<Self, GpuError> {
        let (mut ranges, mut starts) = (Ranges::new(), vec![0]);
        let (mut values, mut decays, mut of) = (Vec::new(), Vec::new(), Vec::new());
        let windows: Vec<_> = params.iter().map(|(_, param)| Window::of(&param.shape)).collect();
        for (position, ((id, param), window)) in (0..).zip(params.iter().zip(&windows)) {
            let start = values.len();
            values.extend(Window::from_torch(*window, param.values()));
            decays.resize(values.len(), if param.decays { 1.0 } else { 0.0 });
            of.resize(values.len(), position);
            ranges.insert(*id, start..values.len());
            starts.push(values.len() as u64);
        }
        let layout =
            Layout { ranges, windows, starts, decays: gpu.upload(&decays)?, of: gpu.stream.clone_htod(&of)? };
        let state = State { values: gpu.upload(&values)?, training: None, held: None };
        Ok(Self {
            gpu: gpu.clone(),
            layout: Arc::new(layout),
            state: Arc::new(Mutex::new(state)),
            failure: Arc::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what went wrong first.
    fn noted<T>(&self, result: Result<T, GpuError>) -> Option<T> {
        result
            .inspect_err(|error| {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert_with(|| error.to_string());
            })
            .ok()
    }

    fn run(
        &self,
        network: &Network,
        edges: &Sparse,
        input: &dyn Fn(&mut [f32]),
        dims: Dims,
        records: bool,
    ) -> Result<Pass, GpuError> {
        let edges = match edges.rows() {
            0 => None,
            _ => Some(Edges::upload(&self.gpu.stream, edges)?),
        };
        let x = Batch { values: Rc::new(self.gpu.upload_from(dims.values(), input)?), dims };
        let mut tape = records.then(Vec::new);
        let state = self.state();
        let y = self.weights(&state, edges.as_ref()).forward(network, x, &mut tape)?;
        let values = self.gpu.download(&y.values.as_view())?;
        let (placed, network) = (self.clone(), network.clone());
        let backward = tape.map(|saved| -> restage_nn::Backward {
            Box::new(move |dy, wants_input| {
                let back = || {
                    let dy = Rc::new(placed.gpu.upload(dy)?);
                    let mut state = placed.state();
                    let State { values, training, .. } = &mut *state;
                    let Training { gradients, .. } = placed.training(values.len(), training)?;
                    let (ranges, edges) = (&placed.layout.ranges, edges.as_ref());
                    let weights = Weights { gpu: &placed.gpu, ranges, values, edges };
                    let dx = weights.backward(&network, saved, dy, gradients, wants_input)?;
                    dx.map_or_else(|| Ok(Vec::new()), |dx| placed.gpu.download(&dx.as_view()))
                };
                placed.noted(back()).unwrap_or_else(|| vec![f32::NAN; dims.values()])
            })
        });
        Ok(Pass { values, dims: y.dims, backward })
    }

    fn weights<'a>(&'a self, state: &'a State, edges: Option<&'a Edges>) -> Weights<'a> {
        Weights { gpu: &self.gpu, ranges: &self.layout.ranges, values: &state.values, edges }
    }

    fn training<'a>(
        &self,
        count: usize,
        training: &'a mut Option<Training>,
    ) -> Result<&'a mut Training, GpuError> {
        if training.is_none() {
            let zeros = || self.gpu.zeros(count);
            *training = Some(Training { gradients: zeros()?, first: zeros()?, second: zeros()? });
        }
        training.as_mut().ok_or_else(|| unreachable!("it was made above"))
    }

    /// The same, with gradients of those that stay set to 0.
    fn moving<'a>(
        &self,
        count: usize,
        training: &'a mut Option<Training>,
        held: &Option<Held>,
    ) -> Result<&'a mut Training, GpuError> {
        let training = self.training(count, training)?;
        if let Some(Held { moves, .. }) = held {
            self.gpu.kernels.mask(&self.gpu.stream, &mut training.gradients, moves)?;
        }
        Ok(training)
    }

    fn holding(&self, stays: &[bool]) -> Result<(), GpuError> {
        let lengths = self.layout.starts.windows(2).map(|range| (range[1] - range[0]) as usize);
        let moves: Vec<f32> = lengths
            .zip(stays)
            .flat_map(|(length, stays)| std::iter::repeat_n(if *stays { 0.0 } else { 1.0 }, length))
            .collect();
        let moves = self.gpu.upload(&moves)?;
        let mut decays = self.gpu.stream.clone_dtod(&self.layout.decays)?;
        self.gpu.kernels.mask(&self.gpu.stream, &mut decays, &moves)?;
        self.state().held = Some(Held { moves, decays });
        Ok(())
    }

    fn stepped(&self, update: Update) -> Result<(), GpuError> {
        let mut state = self.state();
        let State { values, training, held } = &mut *state;
        let (kernels, stream, layout) = (&self.gpu.kernels, &self.gpu.stream, &self.layout);
        let Training { gradients, first, second } = self.moving(values.len(), training, held)?;
        let decays = held.as_ref().map_or(&layout.decays, |held| &held.decays);
        match update {
            Update::AdamW { rate, root, shrink } => {
                let buffers = [values, gradients, first, second];
                kernels.adamw(stream, buffers, decays, (rate, root, shrink))
            }
            Update::Sgd { rate, momentum, decay, eta } => {
                let trusts = match eta {
                    Some(eta) => {
                        let buffers = [&*values, &*gradients, decays];
                        kernels.trust(stream, buffers, &layout.starts, (decay, eta))?
                    }
                    None => self.gpu.upload(&vec![1.0; layout.starts.len() - 1])?,
                };
                let of = (&trusts, &layout.of);
                kernels.sgd(stream, [values, gradients, first], decays, of, (rate, momentum, decay))
            }
        }
    }

    fn fetched(&self, kind: Kind) -> Result<Vec<f32>, GpuError> {
        let mut state = self.state();
        let State { values, training, .. } = &mut *state;
        let buffer = match kind {
            Kind::Value => values,
            other => self.training(values.len(), training)?.of(other),
        };
        self.gpu.download(&buffer.as_view())
    }

    fn replaced(&self, kind: Kind, new: &[f32]) -> Result<(), GpuError> {
        let mut state = self.state();
        let State { values, training, .. } = &mut *state;
        let buffer = match kind {
            Kind::Value => values,
            other => self.training(values.len(), training)?.of(other),
        };
        Ok(self.gpu.stream.memcpy_htod(new, buffer)?)
    }
}

impl Training {
    /// What lies beside the values; they themselves are not among these.
    fn of(&mut self, kind: Kind) -> &mut Buffer {
        match kind {
            Kind::Value | Kind::Gradient => &mut self.gradients,
            Kind::First => &mut self.first,
            Kind::Second => &mut self.second,
        }
    }
}

impl Resident for Placed {
    fn forward(
        &self,
        network: &Network,
        edges: &Arc<Sparse>,
        input: &dyn Fn(&mut [f32]),
        dims: Dims,
        records: bool,
    ) -> Pass {
        self.noted(self.run(network, edges, input, dims, records)).unwrap_or_else(|| {
            let dims = dims_after(network, dims);
            Pass { values: vec![f32::NAN; dims.values()], dims, backward: None }
        })
    }

    fn hold(&self, stays: &[bool]) {
        self.noted(self.holding(stays));
    }

    fn squared_norm(&self) -> f64 {
        let mut state = self.state();
        let State { values, training, held } = &mut *state;
        let norm = self
            .moving(values.len(), training, held)
            .and_then(|training| self.gpu.kernels.squares(&self.gpu.stream, &training.gradients));
        self.noted(norm).unwrap_or(f64::NAN)
    }

    fn scale(&self, by: f32) {
        let mut state = self.state();
        let State { values, training, .. } = &mut *state;
        let done = self
            .training(values.len(), training)
            .and_then(|training| self.gpu.kernels.scale(&self.gpu.stream, &mut training.gradients, by));
        self.noted(done);
    }

    fn step(&self, update: Update) {
        self.noted(self.stepped(update));
    }

    fn follow(&self, other: &dyn Resident, kept: f32) {
        let other = (other as &dyn Any).downcast_ref::<Self>();
        let Some(other) = other.filter(|other| !Arc::ptr_eq(&other.state, &self.state)) else {
            self.noted::<()>(Err(GpuError::Stranger));
            return;
        };
        let theirs = other.state();
        let kernels = &self.gpu.kernels;
        self.noted(kernels.follow(&self.gpu.stream, &mut self.state().values, &theirs.values, kept));
    }

    fn fork(&self) -> Arc<dyn Resident> {
        let copy = self.gpu.stream.clone_dtod(&self.state().values).map_err(GpuError::from);
        // If there is no memory for a copy, the failure is told of both.
        let state = match self.noted(copy) {
            Some(values) => Arc::new(Mutex::new(State { values, training: None, held: None })),
            None => self.state.clone(),
        };
        Arc::new(Self { state, ..self.clone() })
    }

    fn fetch(&self, kind: Kind) -> Vec<Vec<f32>> {
        let count = self.layout.starts.last().map_or(0, |count| *count as usize);
        let all = self.noted(self.fetched(kind)).unwrap_or_else(|| vec![f32::NAN; count]);
        let ranges = self.layout.starts.windows(2);
        let parts = ranges.map(|range| all[range[0] as usize..range[1] as usize].to_vec());
        parts.zip(&self.layout.windows).map(|(part, window)| Window::to_torch(*window, part)).collect()
    }

    fn put(&self, kind: Kind, values: &[Vec<f32>]) {
        let parts = values.iter().zip(&self.layout.windows);
        let parts: Vec<Vec<f32>> =
            parts.map(|(part, window)| Window::from_torch(*window, part.clone())).collect();
        self.noted(self.replaced(kind, &parts.concat()));
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_lie_as_windows_do_and_come_back() {
        // Two outputs of two inputs and three pixels.
        let torch: Vec<f32> = [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112].map(|v| v as f32).into();
        let window = Window::of(&[2, 2, 1, 3]);
        let there = Window::from_torch(window, torch.clone());
        assert_eq!(there[..6], [0.0, 10.0, 1.0, 11.0, 2.0, 12.0]);
        assert_eq!(Window::to_torch(window, there), torch);
        assert_eq!(Window::from_torch(Window::of(&[3, 4]), torch.clone()), torch);
    }
}
