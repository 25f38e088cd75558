# The IAM policy documents of the store, from the templates in this folder. No provider is needed: the tests render them
# with `terraform apply` and try them out on a real S3 server.
locals {
  roles = ["collector", "publisher", "robot", "worker"]
  # every object's key begins with it
  prefix = var.prefix == "" ? "" : "${var.prefix}/"
  names  = { bucket = var.bucket, prefix = local.prefix }
}

output "roles" {
  description = "Role -> its permissions, as JSON"
  value       = { for role in local.roles : role => templatefile("${path.module}/${role}.json.tftpl", local.names) }
}

output "bucket" {
  description = "What nobody may do, whatever their role allows, as JSON"
  value       = templatefile("${path.module}/bucket.json.tftpl", local.names)
}

output "prefix" {
  description = "The store's prefix with a trailing slash, or empty"
  value       = local.prefix
}
