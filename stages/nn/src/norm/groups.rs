//! Group normalisation of one image, pixels x channels: some channels at a time, whose sums stay in registers, down the pixels.

use pulp::NullaryFnOnce;

use super::{EPSILON, Moments};

/// What is the same for all images.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a> {
    pub(super) gamma: &'a [f32],
    pub(super) beta: &'a [f32],
    pub(super) groups: usize,
    pub(super) relu: bool,
}

impl Groups<'_> {
    fn channels(&self) -> usize {
        self.gamma.len()
    }

    /// Gives every channel of a group a function of the sum over its channels.
    #[inline(always)]
    fn share(&self, channels: &mut [f32], mut function: impl FnMut(usize, f32) -> f32) {
        for (index, group) in channels.chunks_exact_mut(self.channels() / self.groups).enumerate() {
            let value = function(index, group.iter().sum());
            group.fill(value);
        }
    }

    /// For each channel: what it is multiplied by, and what is added then.
    fn affine(&self, moments: &[Moments]) -> (Vec<f32>, Vec<f32>) {
        let of_group = self.channels() / self.groups;
        let channels = self.gamma.iter().zip(self.beta).enumerate();
        let line = |(channel, (gamma, beta)): (usize, (&f32, &f32))| {
            let Moments { mean, inverse } = moments[channel / of_group];
            (gamma * inverse, beta - mean * (gamma * inverse))
        };
        channels.map(line).unzip()
    }
}

/// Normalises.
pub(super) struct Forward<'a> {
    pub(super) of: Groups<'a>,
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
    /// Per group, to be found.
    pub(super) moments: &'a mut [Moments],
}

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { of, x, y, moments } = self;
        let (channels, count) = (of.channels(), (x.len() / of.groups) as f32);
        let (mut sums, zeros) = (vec![0.0; channels], vec![0.0; channels]);
        by_block(channels, &mut Sums { x, from: &zeros, power: |x| x, sums: &mut sums });
        of.share(&mut sums, |group, sum| {
            moments[group].mean = sum / count;
            sum / count
        });
        let means = std::mem::replace(&mut sums, zeros);
        by_block(channels, &mut Sums { x, from: &means, power: |x| x * x, sums: &mut sums });
        of.share(&mut sums, |group, sum| {
            moments[group].inverse = 1.0 / (sum / count + EPSILON).sqrt();
            0.0
        });
        let (scale, shift) = of.affine(moments);
        let floor = if of.relu { 0.0 } else { f32::NEG_INFINITY };
        by_block(channels, &mut Affine { x, y, scale: &scale, shift: &shift, floor });
    }
}

/// Turns the gradient of what was made of `x` into that of `x`:
/// dx = (γ dy − mean(γ dy) − x̂ mean(γ dy x̂)) / sd, with means over the group; dγ = Σ dy x̂; dβ = Σ dy.
pub(super) struct Backward<'a> {
    pub(super) of: Groups<'a>,
    pub(super) x: &'a [f32],
    pub(super) dy: &'a mut [f32],
    pub(super) moments: &'a [Moments],
    /// To be added to.
    pub(super) dgamma: &'a mut [f32],
    pub(super) dbeta: &'a mut [f32],
}

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { of, x, dy, moments, dgamma, dbeta } = self;
        let (channels, count) = (of.channels(), (x.len() / of.groups) as f32);
        let (mut scale, mut offset) = of.affine(moments);
        if !of.relu {
            // What passes where 0 x + 1 > 0.
            scale.fill(0.0);
            offset.fill(1.0);
        }
        let [mut mean, mut inverse, mut shift, mut slope] = [(); 4].map(|()| vec![0.0; channels]);
        of.share(&mut mean, |group, _| moments[group].mean);
        of.share(&mut inverse, |group, _| moments[group].inverse);
        let passes = Passes { scale: &scale, offset: &offset };
        by_block(channels, &mut Slopes { x, dy, passes, mean: &mean, shift: &mut shift, slope: &mut slope });
        for channel in 0..channels {
            slope[channel] *= inverse[channel];
            dbeta[channel] += shift[channel];
            dgamma[channel] += slope[channel];
            shift[channel] *= of.gamma[channel];
            slope[channel] *= of.gamma[channel];
        }
        of.share(&mut shift, |_, sum| sum / count);
        of.share(&mut slope, |_, sum| sum / count);
        // As a x + b dy + c per channel, written over what it is made of.
        for channel in 0..channels {
            let inverse = inverse[channel];
            slope[channel] *= -inverse * inverse;
            shift[channel] = -slope[channel] * mean[channel] - inverse * shift[channel];
            mean[channel] = inverse * of.gamma[channel];
        }
        by_block(channels, &mut Input { x, dy, passes, a: &slope, b: &mean, c: &shift });
    }
}

/// One pass over the pixels.
trait Pass {
    /// Over W channels, from `first` on.
    fn run<const W: usize>(&mut self, channels: usize, first: usize);
}

#[inline(always)]
fn by_block(channels: usize, pass: &mut impl Pass) {
    let mut first = 0;
    while first < channels {
        match channels - first {
            32.. => {
                pass.run::<32>(channels, first);
                first += 32;
            }
            16.. => {
                pass.run::<16>(channels, first);
                first += 16;
            }
            8.. => {
                pass.run::<8>(channels, first);
                first += 8;
            }
            _ => {
                pass.run::<1>(channels, first);
                first += 1;
            }
        }
    }
}

#[inline(always)]
fn block<const W: usize>(values: &[f32], first: usize) -> [f32; W] {
    std::array::from_fn(|lane| values[first..first + W][lane])
}

/// Sums of a power of distances.
struct Sums<'a, F> {
    x: &'a [f32],
    from: &'a [f32],
    power: F,
    sums: &'a mut [f32],
}

impl<F: Fn(f32) -> f32> Pass for Sums<'_, F> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, channels: usize, first: usize) {
        let from: [f32; W] = block(self.from, first);
        let mut sums = [0.0; W];
        for pixel in self.x.chunks_exact(channels) {
            let pixel = &pixel[first..first + W];
            for lane in 0..W {
                sums[lane] += (self.power)(pixel[lane] - from[lane]);
            }
        }
        self.sums[first..first + W].copy_from_slice(&sums);
    }
}

struct Affine<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    floor: f32,
}

impl Pass for Affine<'_> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, channels: usize, first: usize) {
        let (scale, shift): ([f32; W], [f32; W]) = (block(self.scale, first), block(self.shift, first));
        for (y, x) in self.y.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels)) {
            let (y, x) = (&mut y[first..first + W], &x[first..first + W]);
            for lane in 0..W {
                y[lane] = (x[lane] * scale[lane] + shift[lane]).max(self.floor);
            }
        }
    }
}

/// Where a gradient passes: where what ReLU got, computed again to the same bits, is above 0.
#[derive(Clone, Copy)]
struct Passes<'a> {
    scale: &'a [f32],
    offset: &'a [f32],
}

struct Slopes<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    passes: Passes<'a>,
    mean: &'a [f32],
    shift: &'a mut [f32],
    slope: &'a mut [f32],
}

impl Pass for Slopes<'_> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, channels: usize, first: usize) {
        let Passes { scale, offset } = self.passes;
        let (scale, offset): ([f32; W], [f32; W]) = (block(scale, first), block(offset, first));
        let mean: [f32; W] = block(self.mean, first);
        let (mut shift, mut slope) = ([0.0; W], [0.0; W]);
        for (dy, x) in self.dy.chunks_exact(channels).zip(self.x.chunks_exact(channels)) {
            let (dy, x) = (&dy[first..first + W], &x[first..first + W]);
            for lane in 0..W {
                let dy = if x[lane] * scale[lane] + offset[lane] > 0.0 { dy[lane] } else { 0.0 };
                shift[lane] += dy;
                slope[lane] += dy * (x[lane] - mean[lane]);
            }
        }
        self.shift[first..first + W].copy_from_slice(&shift);
        self.slope[first..first + W].copy_from_slice(&slope);
    }
}

struct Input<'a> {
    x: &'a [f32],
    dy: &'a mut [f32],
    passes: Passes<'a>,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
}

impl Pass for Input<'_> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, channels: usize, first: usize) {
        let Passes { scale, offset } = self.passes;
        let (scale, offset): ([f32; W], [f32; W]) = (block(scale, first), block(offset, first));
        let (a, b): ([f32; W], [f32; W]) = (block(self.a, first), block(self.b, first));
        let c: [f32; W] = block(self.c, first);
        for (dy, x) in self.dy.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels)) {
            let (dy, x) = (&mut dy[first..first + W], &x[first..first + W]);
            for lane in 0..W {
                let slope = if x[lane] * scale[lane] + offset[lane] > 0.0 { dy[lane] } else { 0.0 };
                dy[lane] = a[lane] * x[lane] + b[lane] * slope + c[lane];
            }
        }
    }
}
