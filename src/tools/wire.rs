//! Readable serialization of timestamps, kinds and dispositions in answers.

/// RFC 3339, or null.
pub(super) mod moment {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{Serialize, Serializer};

    use crate::entry::CapturedAt;

    /// A timestamp, or an optional one.
    pub(in crate::tools) trait Moment: Sized {
        fn text(&self) -> Option<String>;
        fn from_text(text: Option<&str>) -> Option<Self>;
    }

    impl Moment for CapturedAt {
        fn text(&self) -> Option<String> {
            Some(self.to_string())
        }

        fn from_text(text: Option<&str>) -> Option<Self> {
            Self::parse(text?)
        }
    }

    impl Moment for Option<CapturedAt> {
        fn text(&self) -> Option<String> {
            self.map(|moment| moment.to_string())
        }

        fn from_text(text: Option<&str>) -> Option<Self> {
            text.map_or(Some(None), |text| CapturedAt::parse(text).map(Some))
        }
    }

    pub(in crate::tools) fn serialize<S: Serializer>(
        moment: &impl Moment,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        moment.text().serialize(serializer)
    }

    pub(in crate::tools) fn deserialize<'de, M: Moment, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<M, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        M::from_text(text.as_deref()).ok_or_else(|| D::Error::custom("not a timestamp"))
    }
}

/// `frame` or `setup`.
pub(super) mod kind {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::entry::Kind;

    pub(in crate::tools) fn serialize<S: Serializer>(
        kind: &Kind,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(kind.as_str())
    }

    pub(in crate::tools) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Kind, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut kinds = [Kind::Frame, Kind::Setup].into_iter();
        kinds.find(|kind| kind.as_str() == text).ok_or_else(|| D::Error::custom("not a kind"))
    }
}

/// A disposition as one word.
pub(super) mod fate {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::queue::fates::Fate;

    pub(in crate::tools) fn serialize<S: Serializer>(
        fate: &Fate,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(fate.as_str())
    }

    pub(in crate::tools) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Fate, D::Error> {
        let text = String::deserialize(deserializer)?;
        Fate::parse(&text).ok_or_else(|| D::Error::custom("not a disposition"))
    }
}
