//! Steps of encoders on random data of fixed sizes: what `examples/steps.rs` times.

use rand::Rng;
use restage_nn::{
    AdamW, Device, Layer, Linear, Network, ParamId, Params, Source,
    dfdx::prelude::{AsArray, Trace},
    masked_mse, nt_xent, tensor,
};
use restage_stage::{Error, Result, context::rng};
use serde::Deserialize;

use crate::encoder::{Depth, Encoder, Net};

/// What is trained.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// 256 spots x 2000 genes through 512 to 128, and back by a linear layer: masked mean squared error.
    Mlp,
    /// Twice 64 patches of 64 pixels through convolutions of 16, 32, 64 channels to 64: NT-Xent.
    Cnn,
    /// The same through a ResNet-10 of width 32.
    Resnet,
    /// The same through a ViT of six blocks, 192 wide, on squares of 8 pixels.
    Vit,
}

/// Makes a network and its data; each call is a step, and gives the loss. On this device, or the CPU.
///
/// # Errors
/// If the device cannot take the network.
pub fn step(task: Task, device: Option<&dyn Device>) -> Result<Box<dyn FnMut() -> f32>> {
    let (mut params, mut init) = (Params::default(), rng(0, "init"));
    let mut data = rng(0, "data");
    let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| data.random_range(-1.0..1.0)).collect() };
    let kind = match task {
        Task::Mlp => {
            let (spots, genes) = (256, 2000);
            let kind = Encoder::Mlp { hidden: vec![512] };
            let encoder = Net::of_genes(&mut params, "encoder", &kind, (genes, 128), &mut init)?;
            let decoder = Linear::new(&mut params, "decoder", 128, genes, &mut init);
            let decoder = Network(vec![Layer::Linear(decoder)]);
            place(&mut params, device, [encoder.parameters(), decoder.parameters()].concat())?;
            let (input, target) = (draw(spots * genes), draw(spots * genes));
            let mask: Vec<bool> = (0..spots * genes).map(|at| at % 2 == 0).collect();
            let mut optimizer = AdamW::new(&params, 0.01);
            return Ok(Box::new(move || {
                let x = tensor(input.clone(), (spots, genes)).leaky_traced();
                let prediction = encoder.forward(&params, x);
                let prediction = decoder.forward(&params, prediction.into(), Source::Op).rows();
                take(&mut params, &mut optimizer, masked_mse(prediction, target.clone(), mask.clone()))
            }));
        }
        Task::Cnn => Encoder::of_patches(),
        Task::Resnet => Encoder::Resnet { depth: Depth::Ten, width: 32 },
        Task::Vit => Encoder::of_tokens(),
    };
    let (patches, size) = (64, 64);
    let encoder = Net::of_patches(&mut params, "encoder", &kind, 64, &mut init)?;
    place(&mut params, device, encoder.parameters())?;
    let views = [(); 2].map(|()| draw(patches * size * size * 3));
    let mut optimizer = AdamW::new(&params, 0.01);
    Ok(Box::new(move || {
        let [a, b] = views.each_ref().map(|view| {
            encoder.forward(&params, tensor(view.clone(), (patches, size, size, 3)).leaky_traced())
        });
        take(&mut params, &mut optimizer, nt_xent(a, b, 0.2))
    }))
}

fn place(params: &mut Params, device: Option<&dyn Device>, ids: Vec<ParamId>) -> Result<()> {
    device.map_or(Ok(()), |device| params.place(device, &ids)).map_err(Error::invalid)
}

fn take(params: &mut Params, optimizer: &mut AdamW, loss: restage_nn::Scalar<restage_nn::Recording>) -> f32 {
    let value = loss.array();
    if let Some(failure) = params.failure() {
        eprintln!("the device failed: {failure}");
    }
    if let Ok(gradients) = params.gradients(loss) {
        // Small, as rounding decides where large first steps of Adam go.
        optimizer.step(params, &gradients, 3e-5);
    }
    value
}
