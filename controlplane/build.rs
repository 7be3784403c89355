//! The messages of `proto/` become Rust: the driver's side for the program, the kubelet's side for
//! the stories. The compiler is Rust as well, so a build needs no `protoc`.

use std::path::PathBuf;
use std::{env, error, fs};

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["csi.proto", "pluginregistration.proto"], ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo says where")?);
    for (side, driver) in [("driver", true), ("kubelet", false)] {
        let folder = out.join(side);
        fs::create_dir_all(&folder)?;
        tonic_prost_build::configure()
            .build_server(driver)
            .build_client(!driver)
            .build_transport(!driver)
            // A request holds tokens. What cannot be printed is not logged by mistake.
            .skip_debug(["csi.v1.NodePublishVolumeRequest"])
            .out_dir(folder)
            .compile_fds(files.clone())?;
    }
    Ok(())
}
