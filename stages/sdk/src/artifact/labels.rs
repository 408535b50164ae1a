//! Regions of annotated spots; the labels of training and of test spots are types of their own.

/// The region of each annotated spot. `None`: seen by the expert but not assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Spot ids.
    pub spots: Vec<String>,
    /// Section per spot.
    pub sections: Vec<String>,
    /// Patient per spot.
    pub patients: Vec<String>,
    /// Region per spot.
    pub regions: Vec<Option<String>>,
}

/// Labels of training spots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainLabels(pub Labels);

/// Labels of test spots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestLabels(pub Labels);
