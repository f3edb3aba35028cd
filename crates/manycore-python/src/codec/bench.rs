#![allow(missing_docs, clippy::undocumented_unsafe_blocks)]
use pyo3::prelude::*;
use std::time::Instant;
use super::*;
fn inc(e:&Encoder)->(Vec<u8>,usize){ (e.head().to_vec(), e.head().len()) }
#[pyfunction]
pub(crate) fn bench(py: Python<'_>, what:&str, x: Bound<'_,PyAny>, n: u32) -> PyResult<f64> {
    let mut e = Encoder::new();
    let owner=Some(std::sync::Arc::new(()) as _);
    match what {
        "encode" => { let t=Instant::now(); for _ in 0..n { e.encode(&x)?; } Ok(t.elapsed().as_secs_f64()/f64::from(n)) }
        "items" => { let l=x.len()?; let t=Instant::now(); for _ in 0..n { e.encode_items(&x,0,l)?; } Ok(t.elapsed().as_secs_f64()/f64::from(n)) }
        "call" => { let a=x.cast_into()?; let t=Instant::now(); for _ in 0..n { e.encode_call(&a,None)?; } Ok(t.elapsed().as_secs_f64()/f64::from(n)) }
        "decode" => { e.encode(&x)?; let (mut h,l)=inc(&e); let mut tt=0.0; for _ in 0..n { let i=Incoming{ptr:h.as_mut_ptr(),head_len:l,len:l,owner:None}; let t=Instant::now(); let v=decode(py,&i)?; tt+=t.elapsed().as_secs_f64(); drop(v);} Ok(tt/f64::from(n)) }
        "decode_tight" => { e.encode(&x)?; let (mut h,l)=inc(&e); let i=Incoming{ptr:h.as_mut_ptr(),head_len:l,len:l,owner}; let t=Instant::now(); for _ in 0..n { let v=decode(py,&i)?; drop(v);} Ok(t.elapsed().as_secs_f64()/f64::from(n)) }
        "decode_call" => { e.encode_call(&x.cast_into()?,None)?; let (mut h,l)=inc(&e); let i=Incoming{ptr:h.as_mut_ptr(),head_len:l,len:l,owner}; let t=Instant::now(); for _ in 0..n { let v=decode_call(py,&i)?; drop(v);} Ok(t.elapsed().as_secs_f64()/f64::from(n)) }
        "decode_items" => { e.encode(&x)?; let (mut h,l)=inc(&e); let i=Incoming{ptr:h.as_mut_ptr(),head_len:l,len:l,owner}; let t=Instant::now(); for _ in 0..n { let mut it=Items::new(py,&i)?; while let Some(v)=it.next(py) { drop(v?); } } Ok(t.elapsed().as_secs_f64()/f64::from(n)) }
        "seg" => { let t=Instant::now(); for _ in 0..n { e.encode_pickled(&x)?; } Ok(t.elapsed().as_secs_f64()/f64::from(n)) }
        "decode_seg" => { e.encode(&x)?; let mut whole=vec![0u64; e.total_len()/8+16]; let base=whole.as_mut_ptr().cast::<u8>(); let base = unsafe { base.add(base.align_offset(64)) };
            let mut at=e.head().len(); unsafe { std::ptr::copy_nonoverlapping(e.head().as_ptr(), base, at); for s in e.segments() { let st=format::align(at).unwrap(); std::ptr::copy_nonoverlapping(s.ptr, base.add(st), s.len); at=st+s.len; } }
            let i=Incoming{ptr:base,head_len:e.head().len(),len:e.total_len(),owner};
            let t=Instant::now(); for _ in 0..n { let v=decode(py,&i)?; drop(v);} Ok(t.elapsed().as_secs_f64()/f64::from(n)) }
        _ => Ok(0.0)
    }
}
