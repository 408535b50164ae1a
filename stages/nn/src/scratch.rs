//! Memory that ops use for a moment, kept for the next one: new pages cost more than what is computed in them.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// Bytes to whose multiple the first value is aligned: a line of the cache, and the widest register.
const ALIGNMENT: usize = 64;

/// Values by which memory may be larger than asked for, however little that is.
const SMALL: usize = 1 << 12;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Values that nobody has set, on a boundary of 64 bytes.
pub(crate) struct Scratch {
    memory: Vec<f32>,
    first: usize,
    length: usize,
    /// Whether it is kept for the next.
    kept: bool,
}

impl Scratch {
    pub(crate) fn new(length: usize) -> Self {
        let memory = FREE
            .with_borrow_mut(|free| {
                // The smallest that is large enough, if it is not much larger.
                let sizes = free.iter().map(Vec::len).enumerate();
                let fits = sizes.filter(|(_, size)| (length + ALIGNMENT..=2 * length + SMALL).contains(size));
                fits.min_by_key(|(_, size)| *size).map(|(index, _)| free.swap_remove(index))
            })
            .unwrap_or_else(|| vec![0.0; length + ALIGNMENT]);
        let first = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, first, length, kept: true }
    }

    pub(crate) fn zeros(length: usize) -> Self {
        let mut zeros = Self::new(length);
        zeros.fill(0.0);
        zeros
    }
}

/// Memory from elsewhere, which goes as it came: kept, it would pile up.
impl From<Vec<f32>> for Scratch {
    fn from(memory: Vec<f32>) -> Self {
        Self { first: 0, length: memory.len(), memory, kept: false }
    }
}

/// A copy.
impl From<&[f32]> for Scratch {
    fn from(values: &[f32]) -> Self {
        let mut copy = Self::new(values.len());
        copy.copy_from_slice(values);
        copy
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.kept {
            let memory = std::mem::take(&mut self.memory);
            FREE.with_borrow_mut(|free| free.push(memory));
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.first..][..self.length]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.first..][..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_once_are_two_and_memory_is_used_again() {
        let (mut a, mut b) = (Scratch::new(100), Scratch::new(100));
        a.fill(1.0);
        b.fill(2.0);
        assert!(a.iter().all(|a| *a == 1.0) && a.len() == 100);
        let place = a.as_ptr();
        assert_eq!(place as usize % ALIGNMENT, 0);
        drop(a);
        assert_eq!(Scratch::new(90).as_ptr(), place);
        drop(Scratch::from(vec![0.0; 5000]));
        FREE.with_borrow(|free| assert!(free.iter().all(|memory| memory.len() < 5000)));
    }
}
