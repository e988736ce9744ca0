//! One list of fields from which a struct, its defaults, its help and its reading are made.

use serde_json::Value as Json;

/// A setting, as help and every source know it.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name, with underscores.
    pub name: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Other names that are taken for it.
    pub aliases: &'static [&'static str],
    /// What its text must be.
    pub wanted: String,
    /// Its value where nothing is said.
    pub default: String,
    /// Whether its name alone on a command line means true.
    pub flag: bool,
    /// Whether a command line may give it several times.
    pub list: bool,
}

impl Field {
    /// Whether `name` is one of its names; `-` and `_` are the same, and capitals do not count.
    pub fn is(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase().replace('-', "_");
        self.name == name || self.aliases.contains(&name.as_str())
    }
}

/// Settings of one kind.
pub trait Section {
    /// Its settings, in the order of its struct.
    fn fields(&self) -> Vec<Field>;

    /// Sets a field by its name.
    ///
    /// # Errors
    /// The text is no value of it: "it must be …". An unknown name is an error too.
    fn set(&mut self, name: &str, text: &str) -> Result<(), String>;

    /// A text that [`Section::set`] would read again.
    fn show(&self, name: &str) -> Option<String>;

    /// For files that programs read.
    fn json(&self) -> Json;
}

/// `/// help` `name: Type = default, within RANGE, also ["alias"];`
macro_rules! section {
    ($(#[doc = $about:literal])+ $Name:ident {
        $($(#[doc = $help:literal])+
          $field:ident: $Type:ty = $default:expr $(, within $range:expr)? $(, also [$($alias:literal),+])?;)+
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Name {
            $($(#[doc = $help])+ pub $field: $Type,)+
        }

        impl Default for $Name {
            fn default() -> Self {
                $Name { $($field: $default,)+ }
            }
        }

        impl $crate::settings::section::Section for $Name {
            fn fields(&self) -> Vec<$crate::settings::section::Field> {
                use $crate::settings::{section::Field, values::Value};
                let default = Self::default();
                vec![$(Field {
                    name: stringify!($field),
                    help: concat!($($help),+).trim_start(),
                    aliases: &[$($($alias),+)?],
                    wanted: <$Type>::wanted(section!(@range $($range)?)),
                    default: default.$field.show(),
                    flag: <$Type>::FLAG,
                    list: <$Type>::LIST,
                }),+]
            }

            fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
                use $crate::settings::values::Value;
                match name {
                    $(stringify!($field) => {
                        let range = section!(@range $($range)?);
                        let value = <$Type>::parse(text, range);
                        self.$field = value.ok_or_else(|| format!("it must be {}", <$Type>::wanted(range)))?;
                    })+
                    _ => return Err("there is no such setting".into()),
                }
                Ok(())
            }

            fn show(&self, name: &str) -> Option<String> {
                use $crate::settings::values::Value;
                match name {
                    $(stringify!($field) => Some(self.$field.show()),)+
                    _ => None,
                }
            }

            fn json(&self) -> serde_json::Value {
                use $crate::settings::values::Value;
                let mut all = serde_json::Map::new();
                $(all.insert(stringify!($field).into(), self.$field.json());)+
                all.into()
            }
        }
    };
    (@range) => { None };
    (@range $range:expr) => { Some($range) };
}
pub(crate) use section;

/// Those of `fields` that `name` could have meant, nearest first, and then all.
pub(super) fn suggestion(name: &str, fields: &[Field]) -> String {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let near = fields.iter().map(|field| (strsim::damerau_levenshtein(&name, field.name), field.name)).min();
    let names: Vec<_> = fields.iter().map(|field| field.name).collect();
    let meant = near.filter(|&(distance, _)| distance <= 3).map(|(_, near)| format!("did you mean {near}? "));
    format!("{}there are {}", meant.unwrap_or_default(), names.join(", "))
}
