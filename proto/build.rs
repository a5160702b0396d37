//! Compiles the `.proto` files with protox, so that no machine needs protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=perigee");
    println!("cargo:rerun-if-changed=opentelemetry");
    let services = ["trace", "metrics", "logs"]
        .map(|signal| format!("opentelemetry/proto/collector/{signal}/v1/{signal}_service.proto"));
    let mut otlp = protox::Compiler::new(["."])?;
    otlp.include_source_info(false).include_imports(true).open_files(services)?;
    let out = std::path::Path::new(&std::env::var("OUT_DIR")?).join("otlp.binpb");
    std::fs::write(out, otlp.encode_file_descriptor_set())?;
    let files = protox::compile(["perigee/link.proto"], ["."])?;
    tonic_prost_build::configure().build_client(false).build_server(false).compile_fds(files)?;
    Ok(())
}
