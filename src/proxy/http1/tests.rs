use super::*;
fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}
fn size7<A, B, C, D, E, G, H, F>(_: fn(A, B, C, D, E, G, H) -> F) -> usize {
    size_of::<F>()
}
fn size3<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}
fn size5<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
    size_of::<F>()
}
#[test]
fn sizes() {
    println!("serve {}", size(serve));
    println!("exchange {}", size7(exchange));
    println!("answer {}", size3(answer));
    println!("handle {}", size3(crate::proxy::handle));
    println!("forward {}", size5(crate::proxy::forward::forward));
    println!("checkout.send {}", size(crate::upstream::Checkout::send));
    println!("Parts {}", size_of::<http::request::Parts>());
    println!("RespParts {}", size_of::<Parts>());
    println!("ResponseBody {}", size_of::<ResponseBody>());
    println!("Response {}", size_of::<http::Response<ResponseBody>>());
    println!("wire {}", size_of::<Wire>());
    println!("client {}", size_of::<Client>());
    println!("proxyerror {}", size_of::<ProxyError>());
    println!("senderror {}", size_of::<crate::upstream::SendError>());
    println!("sending {}", size_of::<Sending>());
}
