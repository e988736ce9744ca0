//! Options that others fill in, and that may get more of them.

/// A struct of options, and a method for each that sets it: no literal of it can be written elsewhere, so one more breaks
/// nobody.
macro_rules! builder {
    ($(#[$about:meta])* pub struct $Options:ident {
        $($(#[$help:meta])* pub $field:ident: $T:ty,)+
    }) => {
        $(#[$about])*
        #[non_exhaustive]
        pub struct $Options {
            $($(#[$help])* pub $field: $T,)+
        }

        impl $Options {
            $($(#[$help])*
            #[must_use]
            pub fn $field(mut self, $field: $T) -> Self {
                self.$field = $field;
                self
            })+
        }
    };
}

pub(crate) use builder;
