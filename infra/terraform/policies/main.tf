# The IAM policy documents of the store, from the templates beside this file. No provider is needed: the tests render
# them with `terraform apply` and try them out on a real S3 server.
locals {
  roles = ["collector", "publisher", "robot", "worker"]
  # an object's key begins with it
  prefix = var.prefix == "" ? "" : "${var.prefix}/"
  names  = { bucket = var.bucket, prefix = local.prefix }
}

output "roles" {
  description = "Role -> the JSON of what it may do"
  value       = { for role in local.roles : role => templatefile("${path.module}/${role}.json.tftpl", local.names) }
}

output "bucket" {
  description = "The JSON of what nobody may do, whatever else they may"
  value       = templatefile("${path.module}/bucket.json.tftpl", local.names)
}

output "prefix" {
  description = "The store's prefix with a slash at its end, or empty"
  value       = local.prefix
}
