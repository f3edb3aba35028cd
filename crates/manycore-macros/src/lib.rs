//! The attributes of `manycore`, which gives them on: `#[manycore::main]` and
//! `#[manycore::task]`.

#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use quote::{ToTokens, quote};
use syn::parse::Nothing;
use syn::{Error, FnArg, Item, ItemFn, Result, parse_macro_input};

/// Makes `main` begin with `manycore::init()`: in a worker process it goes no further.
///
/// ```
/// #[manycore::main]
/// fn main() -> manycore::Result<()> {
///     let pool = manycore::Pool::with_workers(1)?;
///     assert_eq!(pool.map(|x: u64| x * x, 0..3)?, [0, 1, 4]);
///     Ok(())
/// }
/// ```
///
/// Attributes that make an `async` main an ordinary one stand below; a worker process
/// then starts no runtime.
///
/// ```ignore
/// #[manycore::main]
/// #[tokio::main]
/// async fn main() {}
/// ```
///
/// It stands at `main` and nowhere else:
///
/// ```compile_fail
/// #[manycore::main]
/// fn other() {}
/// ```
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    parse_macro_input!(arguments as Nothing);
    expand(parse_macro_input!(item as Item), entry)
}

/// Gives a function a name that other processes know, in whatever library it stands.
///
/// Functions of the program itself need no attribute to be given to a pool or a
/// process. One of a shared library does: there, this is how it is found. Two
/// functions that cannot be told apart, by module, name and signature, are refused
/// by `manycore::init()`.
///
/// ```
/// #[manycore::task]
/// fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// fn main() -> manycore::Result<()> {
///     manycore::init();
///     assert_eq!(manycore::Process::spawn(add, (40, 2))?.join()?, 42);
///     Ok(())
/// }
/// ```
///
/// Arguments are owned values that serde can read back, and there is one function,
/// not many: generic and `async` ones are refused.
///
/// ```compile_fail
/// #[manycore::task]
/// fn length(text: &str) -> usize {
///     text.len()
/// }
/// ```
///
/// ```compile_fail
/// #[manycore::task]
/// fn first<T>(items: Vec<T>) -> Option<T> {
///     items.into_iter().next()
/// }
/// ```
#[proc_macro_attribute]
pub fn task(arguments: TokenStream, item: TokenStream) -> TokenStream {
    parse_macro_input!(arguments as Nothing);
    expand(parse_macro_input!(item as Item), register)
}

/// What `by` makes of a function; of anything else, the error that it is none.
fn expand(item: Item, by: fn(&ItemFn) -> Result<proc_macro2::TokenStream>) -> TokenStream {
    let expanded = match &item {
        Item::Fn(function) => by(function),
        other => Err(Error::new_spanned(other, "this attribute stands at a function")),
    };
    // The item stays, so that its users do not get errors of their own.
    expanded.unwrap_or_else(|error| [error.into_compile_error(), item.into_token_stream()].into_iter().collect()).into()
}

fn entry(function: &ItemFn) -> Result<proc_macro2::TokenStream> {
    let ItemFn { attrs, vis, sig, .. } = function;
    if sig.ident != "main" {
        return Err(Error::new_spanned(&sig.ident, "#[manycore::main] stands at `main`"));
    }
    if sig.asyncness.is_some() && attrs.is_empty() {
        return Err(Error::new_spanned(
            sig,
            "an async main needs a runtime: write its attribute, like #[tokio::main], below #[manycore::main]",
        ));
    }
    // The whole function inside, so that attributes below this one work on it as it was.
    let mut outer = sig.clone();
    outer.asyncness = None;
    let name = &sig.ident;
    Ok(quote! {
        #vis #outer {
            ::manycore::init();
            #function
            #name()
        }
    })
}

fn register(function: &ItemFn) -> Result<proc_macro2::TokenStream> {
    let sig = &function.sig;
    let refused = if sig.asyncness.is_some() {
        Some("a task of another process cannot be async; make the runtime in it")
    } else if !sig.generics.params.is_empty() {
        Some("a generic function has no one name; give its instances to pools and processes as they are")
    } else if sig.unsafety.is_some() || sig.variadic.is_some() {
        Some("a task of another process is a safe function")
    } else {
        None
    };
    if let Some(reason) = refused {
        return Err(Error::new_spanned(sig, reason));
    }
    let mut types = Vec::new();
    for argument in &sig.inputs {
        match argument {
            FnArg::Typed(argument) => types.push(&argument.ty),
            FnArg::Receiver(receiver) => {
                return Err(Error::new_spanned(receiver, "a task is a function of its own, not a method"));
            }
        }
    }
    let name = &sig.ident;
    Ok(quote! {
        #function

        const _: () = {
            ::manycore::__private::inventory::submit! {
                ::manycore::__private::Entry::new(
                    || ::manycore::__private::describe::<(#(#types,)*), _>(#name),
                    || ::manycore::__private::open::<(#(#types,)*), _>(#name),
                    ::core::concat!(::core::file!(), ":", ::core::line!()),
                )
            }
        };
    })
}
