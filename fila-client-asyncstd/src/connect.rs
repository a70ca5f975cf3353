//! Opening TCP connections.

use std::io;
use std::net::SocketAddr;

use async_std::net::TcpStream;
use fibp_proto::client::SocketOptions;

pub(crate) async fn connect(address: SocketAddr, options: SocketOptions) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    #[cfg(unix)]
    {
        let socket = socket2::SockRef::from(&stream);
        if let Some(idle) = options.keepalive {
            socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(idle))?;
        }
        if let Some(size) = options.receive_buffer.and_then(|size| usize::try_from(size).ok()) {
            socket.set_recv_buffer_size(size)?;
        }
    }
    #[cfg(not(unix))]
    let _ = options;
    Ok(stream)
}
