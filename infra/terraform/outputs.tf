output "store" {
  description = "What WORLD2ACT_STORE and DVC's default remote name"
  value       = trimsuffix("s3://${aws_s3_bucket.store.id}/${module.policies.prefix}", "/")
}

output "role_arns" {
  description = "Role -> ARN, for profiles of ~/.aws/config and for the service account's annotation"
  value       = { for role, made in aws_iam_role.role : role => made.arn }
}
