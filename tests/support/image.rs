//! Images to push: OCI layouts in a folder, made here so that every digest is known beforehand.
//!
//! Layers of ordinary images are real tar archives, because podman unpacks what it pulls. The big
//! layer only looks compressed: skopeo stores it as it is, and nothing has to be unpacked.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{digest_of, hex_digest, noise};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// One image, or an index of several, in an OCI layout under the tag `v1`.
pub(crate) struct Layout {
    folder: PathBuf,
    /// The digest of the manifest or index.
    pub(crate) digest: String,
    /// The digests of all layers.
    pub(crate) layers: Vec<String>,
}

impl Layout {
    /// An image of `layers` layers of some 100 KiB in `folder`; other seeds make other layers.
    pub(crate) fn image(folder: &Path, layers: usize, seed: u64) -> Self {
        let mut layout = Self::empty(folder);
        let descriptor = layout.small_image("amd64", layers, seed);
        layout.finish(&descriptor);
        layout
    }

    /// An index of an image for amd64 and one for arm64.
    pub(crate) fn index(folder: &Path, seed: u64) -> Self {
        let mut layout = Self::empty(folder);
        let manifests = ["amd64", "arm64"].iter().zip(seed..).map(|(architecture, seed)| {
            let mut descriptor = layout.small_image(architecture, 2, seed);
            descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
            descriptor
        });
        let manifests: Vec<_> = manifests.collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let descriptor = layout.json_blob(INDEX, &index);
        layout.finish(&descriptor);
        layout
    }

    /// An image with one layer of more than 1 GiB.
    pub(crate) fn big(folder: &Path, seed: u64) -> Self {
        let mut layout = Self::empty(folder);
        let (digest, size) = layout.big_layer(seed);
        let layer = json!({"mediaType": LAYER, "digest": digest, "size": size});
        // The layer is never unpacked, so nobody compares this.
        let diff = digest_of(&seed.to_le_bytes());
        let descriptor = layout.manifest("amd64", &[layer], &[diff]);
        layout.layers.push(digest);
        layout.finish(&descriptor);
        layout
    }

    /// Its name for skopeo.
    pub(crate) fn source(&self) -> String {
        format!("oci:{}:v1", self.folder.display())
    }

    fn empty(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("blobs/sha256")).expect("a folder");
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).expect("a file");
        Self { folder: folder.to_owned(), digest: String::new(), layers: Vec::new() }
    }

    fn finish(&mut self, descriptor: &Value) {
        let mut descriptor = descriptor.clone();
        descriptor["digest"].as_str().unwrap_or_default().clone_into(&mut self.digest);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        fs::write(self.folder.join("index.json"), index.to_string()).expect("a file");
    }

    fn small_image(&mut self, architecture: &str, layers: usize, seed: u64) -> Value {
        let mut descriptors = Vec::new();
        let mut diffs = Vec::new();
        for number in 0..layers {
            let (archive, compressed) = self.archive(&format!("{seed}-{number}"), seed, number);
            diffs.push(digest_of(&archive));
            descriptors.push(self.blob(LAYER, &compressed));
        }
        let digest = |layer: &Value| layer["digest"].as_str().unwrap_or_default().to_owned();
        self.layers.extend(descriptors.iter().map(digest));
        self.manifest(architecture, &descriptors, &diffs)
    }

    fn manifest(&self, architecture: &str, layers: &[Value], diffs: &[String]) -> Value {
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        });
        let config = self.json_blob(CONFIG, &config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
        });
        self.json_blob(MANIFEST, &manifest)
    }

    fn archive(&self, name: &str, seed: u64, number: usize) -> (Vec<u8>, Vec<u8>) {
        let place = self.folder.with_extension(format!("layer-{name}"));
        fs::create_dir_all(&place).expect("a folder");
        let content = noise(seed * 100 + number as u64, 100_000 + number);
        fs::write(place.join(format!("file-{name}")), content).expect("a file");
        let output = |command: &mut Command| {
            let output = command.output().expect("the program starts");
            assert!(output.status.success(), "{command:?}");
            output.stdout
        };
        let archive = output(Command::new("tar").arg("-C").arg(&place).args([
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--mtime=@0",
            "-cf",
            "-",
            ".",
        ]));
        let file = place.join("archive.tar");
        fs::write(&file, &archive).expect("a file");
        let compressed = output(Command::new("gzip").args(["-n", "-1", "-c"]).arg(&file));
        (archive, compressed)
    }

    fn json_blob(&self, kind: &str, value: &Value) -> Value {
        self.blob(kind, value.to_string().as_bytes())
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let digest = digest_of(bytes);
        fs::write(self.path_of(&digest), bytes).expect("a blob");
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    }

    fn path_of(&self, digest: &str) -> PathBuf {
        self.folder.join("blobs").join(digest.replace(':', "/"))
    }

    fn big_layer(&self, seed: u64) -> (String, u64) {
        let path = self.folder.join("blobs/sha256/next");
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).expect("a file"));
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        let mut block = noise(seed, 1 << 20);
        // Not a whole number of blocks, so that the last bytes end up in no round place.
        let sizes = std::iter::repeat_n(block.len(), 1025).chain([4097]);
        let mut total = 0;
        for (number, size) in sizes.enumerate() {
            // Every block is another one: swapped or repeated pieces change the digest.
            block[..8].copy_from_slice(&(number as u64).to_le_bytes());
            if number == 0 {
                // The first bytes of a gzip file keep skopeo from compressing it.
                block[..8].copy_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
            }
            file.write_all(&block[..size]).expect("space");
            hash.update(&block[..size]);
            total += size as u64;
        }
        file.flush().expect("space");
        let digest = hex_digest(hash.finish());
        fs::rename(path, self.path_of(&digest)).expect("the same file system");
        (digest, total)
    }
}
